"""The page: whole, self-contained and escaped, for finished and unfinished runs."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from dynat_ray.errors import UserError
from dynat_ray.report import write_report
from dynat_ray.report.reading import read_run
from dynat_ray.settings import dump_config, override
from dynat_ray.storage.metrics import read_metrics, write_metrics
from dynat_ray.storage.run_folder import read_run_config
from tests.report.conftest import ATTACKED, MakeRun, entry

RESULTS = {
    "best": {
        "clean": entry(97.0),
        "pgd-20": entry(71.0),
        "autoattack": entry(68.0, after={"apgd-ce": 69.5, "square": 68.0}),
    },
    "last": {"clean": entry(96.0), "pgd-20": entry(70.0), "autoattack": entry(66.0)},
    "best_epoch": 1,
}


@pytest.fixture
def unsaved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are composed, and not laid out and written, which is most of a page's time.

    For pages whose figures are those of another test here, which writes them.
    """
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)


class Page(HTMLParser):
    """Collects a page's headings, pictures and text; checks that tags are closed in order."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.headings: list[str] = []
        self.text = ""
        self.source = file.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.sources.append(dict(attrs)["src"] or "")
        if tag not in ("img", "br", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if "style" not in self.open:
            self.text += f"{data} "

    def says(self, words: str) -> bool:
        return words in " ".join(self.text.split())


def test_a_finished_run_has_all_parts(make_run: MakeRun) -> None:
    page = Page(write_report(make_run(results=RESULTS)))
    assert page.headings == [
        "Result on the test split",
        "Learning curves",
        "Budgets and attack steps",
        "Confidence without and under attack",
        "The 24 most fragile training images",
        "Speed",
    ]
    for words in (
        "Linf, eps 25.5/255",
        "2 on cpu, loader memory",
        "97.0 % 95.0 to 99.0 · 360 images",
        "apgd-ce 69.5 %, square 68.0 %",
        "pgd-20 is 3.0 points above autoattack.",
        "no claim of robustness",
        "predicted",
        "719 images per second",
        "5.0 % waiting for images",
    ):
        assert page.says(words), words
    # Four figures and the pictures.
    assert len(page.sources) == 28


def test_is_self_contained(make_run: MakeRun) -> None:
    page = Page(write_report(make_run(results=RESULTS)))
    assert all(source.startswith("data:image/") for source in page.sources)
    assert not re.search(r"""(src|href)=["'](?!data:)|url\(|@import|<script""", page.source)


@pytest.mark.usefixtures("unsaved")
@pytest.mark.parametrize(("pgd", "loud"), [(70.0, False), (80.0, True)])
def test_pgd_far_above_autoattack_is_said_loudly(make_run: MakeRun, pgd: float, loud: bool) -> None:
    results = {"best": {"pgd-20": entry(pgd), "autoattack": entry(68.0)}}
    page = Page(write_report(make_run(results=results)))
    assert page.says("masked gradients") == loud


@pytest.mark.usefixtures("unsaved")
def test_pgd_is_compared_on_the_images_that_autoattack_saw(make_run: MakeRun) -> None:
    part = entry(68.0) | {"same_samples": {"pgd-20": 69.5}}
    page = Page(
        write_report(make_run(results={"best": {"pgd-20": entry(80.0), "autoattack": part}}))
    )
    assert page.says("1.5 points above")
    assert not page.says("masked gradients")


@pytest.mark.usefixtures("unsaved")
def test_pgd_without_autoattack_is_an_upper_bound(make_run: MakeRun) -> None:
    page = Page(write_report(make_run(results={"best": {"pgd-20": entry(80.0)}})))
    assert page.says("AutoAttack was not run here")


def test_an_unfinished_run_says_so(make_run: MakeRun) -> None:
    page = Page(write_report(make_run(epochs=1)))
    assert page.says("1 of 3 epochs are done")
    assert page.says("There is no result yet")
    assert "Learning curves" in page.headings


@pytest.mark.usefixtures("unsaved")
def test_a_run_that_compute_has_ended_inside_an_epoch(make_run: MakeRun) -> None:
    folder = make_run()
    config = override(read_run_config(folder), {"train.compute": 60.0})
    (folder / "config.yaml").write_text(dump_config(config))
    assert not Page(write_report(folder)).says("is not finished")
    lines = read_metrics(folder / "metrics.jsonl")
    write_metrics(folder / "metrics.jsonl", lines[-1] | {"epochs_done": 2.5, "forward_units": 55.0})
    page = Page(write_report(folder))
    assert page.says("55 of 60 units of compute are done")
    # The samples that are shown are those of the last whole epoch.
    assert read_run(folder).last_samples()[0] == 1


def test_a_run_that_has_just_begun(make_run: MakeRun) -> None:
    page = Page(write_report(make_run(epochs=0)))
    assert page.headings == ["Result on the test split", "Budgets and attack steps"]


def test_clean_training_has_no_budgets(make_run: MakeRun) -> None:
    page = Page(write_report(make_run(without=ATTACKED)))
    assert page.says("attacked no image")
    assert "Confidence without and under attack" not in page.headings
    assert "The 24 most fragile training images" in page.headings


@pytest.mark.usefixtures("unsaved")
def test_without_the_data_set(make_run: MakeRun, tmp_path: Path) -> None:
    page = Page(write_report(make_run(data=tmp_path / "gone")))
    assert page.says("class 3")
    assert page.says("no pictures")


@pytest.mark.usefixtures("unsaved")
def test_names_are_escaped(make_run: MakeRun) -> None:
    folder = make_run(name="<i>run & more", results={"best": {"<u>": entry(1.0)}})
    page = Page(write_report(folder))
    assert "<i>" not in page.source
    assert "<u>" not in page.source
    assert page.says("<i>run & more")
    assert page.says("a <b> c")


def test_the_same_run_gives_the_same_page(make_run: MakeRun) -> None:
    folder = make_run(results=RESULTS)
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


def test_a_folder_that_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        write_report(tmp_path)


def test_a_curve_is_shown_with_its_mean(make_run: MakeRun) -> None:
    points = [{"eps": eps, "results": RESULTS["best"]} for eps in (0.0, 8 / 255)]
    expected = {"clean": 97.0, "pgd-20": 77.7, "autoattack": 66.6}
    curves = {"best": {"curve": points, "expected_robustness": expected}}
    folder = make_run(results=RESULTS | {"eps_curve": curves})
    page = Page(write_report(folder))
    assert page.says("expected robustness pgd-20 autoattack best 77.7 % 66.6 %")
    assert page.says("at eps 0/255, 8/255")
