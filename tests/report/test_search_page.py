"""The report of a search, from its folder alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from optuna.distributions import CategoricalDistribution, FloatDistribution

from dynat_ray.evaluation.outcomes import Outcome
from dynat_ray.evaluation.results import OUTCOMES, VALIDATION_OUTCOMES, write_run_samples
from dynat_ray.report import search_figures
from dynat_ray.report.influence import influences
from dynat_ray.report.search_differences import winner_differences
from dynat_ray.report.search_figures import _height
from dynat_ray.report.search_page import search_summary, write_search_report
from dynat_ray.searching.study import open_search
from dynat_ray.searching.trial_records import Trial, read_trials, trial_folder
from tests.searching.conftest import add_trial, make_search, metrics_line  # noqa: F401  (a fixture)

AddTrial = Callable[..., Trial]


def entries(clean: float, robust: float, half: float) -> dict[str, object]:
    return {
        name: {"accuracy": value, "samples": 144, "interval": [value - half, value + half]}
        for name, value in (("clean", clean), ("autoattack", robust))
    }


@pytest.fixture
def folder(tmp_path: Path, add_trial: AddTrial) -> Path:  # noqa: F811
    open_search(tmp_path, make_search(trials=6), resume=True)
    add_trial(0, [40.0] * 4, state="finished", validation=entries(80, 30, 5))
    add_trial(1, [20.0], state="stopped")
    add_trial(2, [45.0, 50.0, 55.0, 50.0], state="finished", validation=entries(85, 42, 5))
    add_trial(3, [], state="failed", error="the loss is <not> finite")
    add_trial(4, [30.0, 41.0], state="running")
    add_trial(5, [10.0], state="stopped")
    return tmp_path


def write_results(folder: Path, images: int) -> None:
    """The winner has 40 % of the images right under attack, the default setting 33 %."""
    for number, robust in ((0, 33.0), (2, 40.0)):
        place = trial_folder(folder, number)
        (place / "results.json").write_text(json.dumps({"best": entries(90, robust, 1)}))
        seen = np.arange(images)
        outcomes = {
            attack: Outcome(attack, seen, seen, np.where(seen < share / 100 * images, -1, -2))
            for attack, share in (("clean", 90), ("autoattack", robust))
        }
        for file in (OUTCOMES, VALIDATION_OUTCOMES):
            write_run_samples(place / file, {"best": outcomes}, seen, seen)


def test_a_whole_search(folder: Path) -> None:
    write_results(folder, 200)
    page = write_search_report(folder).read_text()
    assert page.count("data:image/svg+xml") == 4
    assert "trial 2: method.gap_coef 0.2, method.kl_temperature 3, optim.name sgd" in page
    assert "trial 2 against default setting: no difference in clean, ahead in AutoAttack" in page
    assert '<b>+7.0</b></td>\n<td class="whole">+2.9 to +11.5</td>' in page
    assert "<td>+7.0 (+2.9 to +11.5)</td>" in page
    assert "the loss is &lt;not&gt; finite" in page
    assert "2 finished, 2 stopped, 1 failed, 1 unfinished" in page
    summary = search_summary(folder)
    assert "trial 2, the winner on the test split: clean 90.0 % (89.0 to 91.0)" in summary
    assert "default setting on the test split" in summary
    assert "trial 2 against default setting: no difference in clean, ahead" in summary


def test_a_difference_within_chance_is_called_so(folder: Path) -> None:
    write_results(folder, 30)
    assert "no difference in either" in write_search_report(folder).read_text()


def test_a_default_setting_that_wins_differs_from_nothing(folder: Path) -> None:
    write_results(folder, 200)
    assert winner_differences(folder, read_trials(folder)[0], ["clean"]) == []
    assert winner_differences(folder, None, ["clean"]) == []
    (trial_folder(folder, 0) / OUTCOMES).unlink()
    assert "against default setting" not in write_search_report(folder).read_text()


def test_a_search_in_which_nothing_finished(tmp_path: Path, add_trial: AddTrial) -> None:  # noqa: F811
    open_search(tmp_path, make_search(), resume=True)
    add_trial(0, [], state="failed", error="no data")
    page = write_search_report(tmp_path).read_text()
    assert "No trial has finished yet" in page
    assert "no data" in page
    assert search_summary(tmp_path) == "no trial has finished"


def test_a_default_outside_the_space_can_be_drawn(folder: Path, add_trial: AddTrial) -> None:  # noqa: F811
    outside = {"method.gap_coef": 9.0, "method.kl_temperature": 99.0, "optim.name": "lion"}
    add_trial(0, [40.0] * 4, state="finished", settings=outside)
    assert "lion" in write_search_report(folder).read_text()


def test_a_default_that_lacks_a_searched_number_can_be_drawn(
    folder: Path,
    add_trial: AddTrial,  # noqa: F811
) -> None:
    lacking = {"method.gap_coef": None, "method.kl_temperature": 1.0, "optim.name": "sgd"}
    add_trial(0, [40.0] * 4, state="finished", settings=lacking)
    assert write_search_report(folder).read_text().count("data:image/svg+xml") == 3


def test_default_winner_and_stopped_trials_can_be_told_apart(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    painted: list[Figure] = []

    def draw(width: float, height: float, paint: Callable[[Figure], None]) -> str:
        painted.append(Figure())
        paint(painted[-1])
        return ""

    monkeypatch.setattr(search_figures, "draw", draw)
    trials, searched = read_trials(folder), make_search().space.searched
    search_figures.parallel_plot(trials, searched, trials[2])
    looks = [(line.get_color(), line.get_linestyle()) for line in painted[0].axes[0].lines]
    assert len(looks) == 5
    assert (search_figures.ROBUST, "-") in looks
    assert (search_figures._GREEN, "-") in looks
    assert [style for _, style in looks].count("--") == 3
    search_figures.pareto_plot(trials, trials[2])
    words = {text.get_text() for text in painted[1].legends[0].get_texts()}
    assert words == {"front", "finished", "not finished", "default setting", "winner"}


def test_where_a_value_stands_on_its_axis() -> None:
    decades = FloatDistribution(0.1, 10, log=True)
    assert _height(decades, 1.0) == pytest.approx(0.5)
    assert _height(FloatDistribution(2, 4), 4) == 1
    assert _height(CategoricalDistribution(("x", "y", "z")), "y") == 0.5
    # The default setting may lie outside, and be 0 where only orders of magnitude are searched.
    assert _height(decades, 99.0) == pytest.approx(1.05)
    assert _height(decades, 0.0) == pytest.approx(-0.05)


def trials_with(robust: Callable[[float], float]) -> list[Trial]:
    return [
        Trial(n, {"a": a, "c": "x" if a < 0.5 else "y"}, metrics=[metrics_line(0, 90, robust(a))])
        for n, a in enumerate(np.linspace(0.01, 0.99, 30).tolist())
    ]


def test_influence_of_a_setting() -> None:
    searched = {"a": FloatDistribution(0, 1), "c": CategoricalDistribution(("x", "y"))}
    rising = influences(trials_with(lambda a: 50 + 10 * a**3), searched, epochs=1)
    assert rising[0].key == "a"
    assert rising[0].strength == pytest.approx(1)
    assert "more is better" in rising[0].words()
    # Ranks 1 to n split in halves: three quarters of their variance.
    assert rising[1].strength == pytest.approx(0.75, abs=0.01)
    falling = influences(trials_with(lambda a: -a), searched, epochs=1)
    assert falling[0].strength == pytest.approx(-1)
    nothing = influences(trials_with(lambda a: 50.0), searched, epochs=1)
    assert {each.strength for each in nothing} == {0.0}
    assert "no clear trend" in nothing[0].words()


def test_influence_of_a_number_that_the_default_lacks() -> None:
    default = Trial(99, {"a": None, "c": "x"}, metrics=[metrics_line(0, 90, 1000.0)])
    trials = [default, *trials_with(lambda a: 50 + 10 * a**3)]
    [found] = influences(trials, {"a": FloatDistribution(0, 1)}, epochs=1)
    assert found.strength == pytest.approx(1)


def test_influence_needs_trials_and_equal_epochs() -> None:
    searched = {"a": FloatDistribution(0, 1)}
    trials = trials_with(lambda a: a)
    assert influences(trials[:3], searched, epochs=1) == []
    assert influences(trials, searched, epochs=2) == []
