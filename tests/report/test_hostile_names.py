"""Names of any kind through every page, figure and table: shown as text, and nothing else."""

from __future__ import annotations

import base64
import json
import shutil
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from dynat_ray.config import RunConfig
from dynat_ray.data import load_info
from dynat_ray.errors import UserError
from dynat_ray.evaluation.examples import Example
from dynat_ray.report import final_table, search_page, write_report
from dynat_ray.report.comparison_page import write_comparison
from dynat_ray.report.drawing import draw
from dynat_ray.report.evaluation_page import write_evaluation_page
from dynat_ray.report.search_page import search_summary, write_search_report
from dynat_ray.report.side_by_side import read_evaluation, side_by_side_table
from dynat_ray.report.text import trials_table
from dynat_ray.searching.space import Space
from dynat_ray.searching.trial_records import Trial
from dynat_ray.settings import build_config
from dynat_ray.storage.description import describe_run
from dynat_ray.storage.run_length import RunLength
from tests.report.conftest import MakeRun, entry
from tests.report.test_comparison_page import leave_run
from tests.report.test_run_page import Page
from tests.searching.conftest import make_search, metrics_line

NAMES = [
    *("$x_$", "$\\frac{$", "$$", "\\$5 and $6", "^{_", "x" * 300, "w i d e " * 40),
    *("<b>bold</b>", "<script>alert(1)</script>", "'\"><img src=x onerror=alert(1)>", "&lt;&#0;"),
    *("{{ 7 * 7 }}", "{% raw %}", "{# #}", "%s %d %(x)s", "{0} {name}", "\\n\\x1b", "a|b", "`c`"),
    *("a\nb\r\nc", "tab\tvertical\v", "\x1b[2J\x1b]0;title\x07", "\x00\x01\x7f\x9b", "\u2028"),
    *("שלום עולם", "\u202egnp.exe", "\u2066\u061c", "日本語のクラス", "😀👩\u200d🔬🏴", "é" * 90),
    *(
        "_hidden",
        "__",
        "",
        " ",
        "-->",
        "--",
        "]]>",
        "<!--",
        "\ud800x",
        "\ufffe\uffff",
        "None",
        "nan",
    ),
]
GROUPS = [NAMES[start::4] for start in range(4)]


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def checked(file: Path) -> Page:
    """Returns a page that is well-formed, self-contained, and shows text alone."""
    page = Page(file)
    assert_harmless(page.source)
    assert "<script" not in page.source
    assert "<img src=x" not in page.source
    assert "<b>bold" not in page.source
    assert "49" not in page.headings
    for source in page.sources:
        kind, _, content = source.partition(";base64,")
        if kind == "data:image/svg+xml":
            drawing = base64.b64decode(content).decode()
            assert_harmless(drawing)
            ElementTree.fromstring(drawing)
    return page


def assert_harmless(text: str) -> None:
    kinds = {unicodedata.category(char) for char in set(text) - set("\n\u200c\u200d")}
    assert not kinds & {"Cc", "Cf", "Cs"}
    assert not set(text) & set("\ufffe\uffff")


@pytest.mark.parametrize("names", GROUPS)
def test_names_of_classes_attacks_and_runs_in_a_report(
    names: list[str], make_run: MakeRun, digits: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(digits, data)
    description = json.loads((data / "dataset.json").read_text())
    description |= {"name": "".join(names), "classes": (names * 2)[:10]}
    (data / "dataset.json").write_text(json.dumps(description))
    table = {name: entry(50.0, note=name, after={name: 1.0}) for name in names}
    results = {"best": table, "last": {"clean": entry(1.0)}}
    run = make_run(name="run", data=data, results=results, epochs=1)
    (run / "environment.json").write_text(json.dumps(dict(zip(names, names[::-1], strict=True))))
    folder = tmp_path / as_file_name(names)
    run.rename(folder)
    page = checked(write_report(folder))
    assert page.headings[0] == "Result on the test split"
    assert len(page.sources) == 28
    assert_harmless(final_table(results))
    facts = {"workers": 1, "device": "cpu", "loader": "memory"}
    config = replace_model(names)
    assert_harmless(describe_run(config, load_info(data), folder, facts))
    assert len(describe_run(config, load_info(data), folder, facts).splitlines()) == 9


def as_file_name(names: list[str]) -> str:
    joined = "".join(names).replace("/", "").replace("\0", "")
    return joined.encode("utf-8", "ignore")[:200].decode("utf-8", "ignore")


def replace_model(names: list[str]) -> RunConfig:
    config = build_config([])
    return replace(config, model=replace(config.model, kwargs=dict.fromkeys(names, names[0])))


def leave_evaluation(file: Path, names: list[str], radii: list[float]) -> None:
    attacks = ["clean", *dict.fromkeys(names)]
    entries = {name: entry(40.0, samples=20, note=name, after={name: 9.0}) for name in attacks}
    curve = [{"eps": eps, "results": entries} for eps in radii]
    check = {"name": names[0], "flagged": True, "sentence": names[1]}
    content: dict[str, Any] = {
        **({"curve": curve} if len(radii) > 1 else {"eps": radii[0], "results": entries}),
        "model": "".join(names),
        "data": names[2],
        "norm": "Linf",
        "attacks": attacks,
        "seed": 0,
        "samples": 20,
        "costly_samples": 20,
        "seconds": 1.0,
        "eps_ref": {"eps": 0.1, "model": names[3]},
        "classes": len(names),
        "class_names": names,
        "outcomes": file.stem + ".parquet",
        "checks": [check, check | {"flagged": False}],
        "checksums": {"model": "0" * 64, "data": names[4]},
        "corruptions": corruptions(names),
    }
    file.write_text(json.dumps(content))
    labels = np.arange(20) % len(names)
    columns: dict[str, Any] = {"eps": np.repeat(radii, 20), "label": np.tile(labels, len(radii))}
    for attack in attacks:
        attack = attack.encode("utf-8", "replace").decode()  # Parquet has no other names.
        columns[f"{attack}.predicted"] = (columns["label"] + 1) % len(names)
        columns[f"{attack}.correct"] = np.arange(20 * len(radii)) % 2 == 0
        fooled = [None if right else "stage" for right in columns[f"{attack}.correct"]]
        columns[f"{attack}.fooled_by"] = pa.array(fooled, type=pa.string())
    pq.write_table(pa.table(columns), file.with_name(content["outcomes"]))


def corruptions(names: list[str]) -> dict[str, Any]:
    rows = {name: {"1": 10.0, names[0]: 20.0, "mean": 15.0} for name in names}
    return {"mean": 15.0, "samples": 20, "accuracy": rows}


@pytest.mark.parametrize("names", GROUPS)
@pytest.mark.parametrize("radii", [[0.1], [0.1, 0.2]])
def test_names_of_classes_attacks_and_models_in_an_evaluation(
    names: list[str], radii: list[float], tmp_path: Path
) -> None:
    names = [name.replace("\ud800", "") for name in names]
    files = [tmp_path / f"{part}.json" for part in ("one", "two", "three")]
    for file, found in zip(files, (names, names, names[::-1]), strict=True):
        leave_evaluation(file, found, radii)
    others = [read_evaluation(file) for file in files[1:]]
    image = np.zeros((3, 8, 8), np.float32)
    examples = [Example(0, label, label - 1, image, image + 0.1) for label in range(len(names))]
    page = checked(write_evaluation_page(files[0], examples, others))
    assert page.headings[:3] == [
        "Test images still right",
        "Can these numbers be trusted?",
        "Beside other evaluations",
    ]
    table = side_by_side_table([read_evaluation(files[0]), *others])
    assert_harmless(table)
    # Of models of one name the files tell.
    assert "(one.json)" in table
    assert "(two.json)" in table


@pytest.mark.parametrize("names", GROUPS)
def test_labels_of_methods_in_a_comparison(
    names: list[str], small_config: RunConfig, tmp_path: Path
) -> None:
    seeds: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        label = f"dynat:{place}{name}"
        leave_run(tmp_path, small_config, label, 0, 80.0 + place, ("clean", "pgd-20", *names[:3]))
        seeds[label] = [0]
    seeds |= {name: [1] for name in names}
    table = write_comparison(tmp_path, seeds)
    assert_harmless(table)
    rows = table.splitlines()
    assert len(rows) == 2 + 2 * len(names)
    # Bars within names end no cell.
    assert {row.count("|") for row in rows} == {rows[0].count("|")}
    assert not set(table) & set("<$`*[")
    page = checked(tmp_path / "compare.html")
    assert page.says("Not finished")
    assert len(page.sources) == 1
    ElementTree.parse(tmp_path / "compare.svg")


@pytest.mark.parametrize("names", GROUPS)
def test_keys_and_values_of_a_search(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = CategoricalDistribution(tuple(names[:5]))
    searched = {f"section.{name}": FloatDistribution(0, 1) for name in names[5:]} | {"c": choices}
    search = make_search(trials=6)
    space = Space(searched, {}, search.space.fixed, {})
    monkeypatch.setattr(search_page, "read_search", lambda _: replace(search, space=space))
    monkeypatch.setattr(Space, "default", lambda *_: dict.fromkeys(searched, names[0]))
    trials = [trial(number, searched, names) for number in range(6)]
    monkeypatch.setattr(search_page, "read_trials", lambda _: trials)
    folder = tmp_path / as_file_name(names)
    folder.mkdir()
    page = checked(write_search_report(folder))
    assert len(page.sources) == 3
    assert_harmless(trials_table(trials, RunLength(4)))
    assert len(trials_table(trials, RunLength(4)).splitlines()) == 7
    assert_harmless(search_summary(folder))


def trial(number: int, searched: Mapping[str, Any], names: list[str]) -> Trial:
    settings: dict[str, Any] = dict.fromkeys(searched, number / 7) | {"c": names[number % 5]}
    metrics = [metrics_line(epoch, 80.0, 30.0 + number + epoch) for epoch in range(4)]
    judged = {name: entry(30.0 + number) for name in names}
    return Trial(
        number, settings, "finished", metrics=metrics, validation=judged, error="".join(names)
    )


def test_a_dollar_sign_is_a_dollar_sign_wherever_it_stands() -> None:
    def paint(place: Callable[[Any, str], object]) -> Callable[[Any], None]:
        return lambda figure: place(figure.subplots(), "$x_{$") and None

    for place in (
        lambda axes, name: axes.set_title(name),
        lambda axes, name: axes.set_xlabel(name),
        lambda axes, name: axes.set_xticks([0], [name]),
        lambda axes, name: axes.annotate(name, (0, 0)),
        lambda axes, name: axes.text(0, 0, name),
        lambda axes, name: (axes.plot([0], label=name), axes.legend()),
        lambda axes, name: axes.figure.suptitle(name),
    ):
        drawing = base64.b64decode(draw(3, 3, paint(place)).partition(",")[2]).decode()
        assert "<!-- $x_{$ -->" in drawing


def test_what_is_no_evaluation_is_not_compared(tmp_path: Path) -> None:
    file = tmp_path / "one.json"
    leave_evaluation(file, NAMES[:6], [0.1])
    good = json.loads(file.read_text())
    assert read_evaluation(file).norm == "Linf"
    clean = good["results"]["clean"]
    for wrong in (
        {"norm": "$L_0$"},
        {"eps": "nan"},
        {"samples": "many"},
        {"results": {}},
        *(
            {"results": {"clean": clean | changed}}
            for changed in (
                {"accuracy": "<b>"},
                {"accuracy": float("inf")},
                {"accuracy": 10**400},
                {"interval": [1.0]},
                {"interval": None},
                {"samples": None},
            )
        ),
    ):
        file.write_text(json.dumps(good | wrong))
        with pytest.raises(UserError, match="not the JSON file of an evaluation"):
            read_evaluation(file)
