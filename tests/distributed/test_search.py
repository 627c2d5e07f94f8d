"""A whole search through Ray Tune, small: the default setting, and one that fails."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from dynat_ray.config import RunConfig
from dynat_ray.distributed import placement_groups
from dynat_ray.distributed import search as search_module
from dynat_ray.distributed.capacity import side_by_side
from dynat_ray.distributed.search import Plan, check, run_search
from dynat_ray.errors import UserError
from dynat_ray.searching.space import parse_space
from dynat_ray.searching.study import Search, SearchOptions
from dynat_ray.settings import build_config, override, read_settings
from dynat_ray.storage.mirror import set_mirror_address
from tests.distributed.watching import looking_at_processes

pytestmark = pytest.mark.usefixtures("local_ray")


# Of bytes that no other process shares. PyTorch alone takes as much; 100 to 120 MB are seen.
_LARGE = 250 << 20
# They live as long as a trial, and many trials go side by side on the head. What needs PyTorch is
# done in processes of its own, which end (see test_head_tasks.py).
_LONG_LIVED = ("ImplicitFunc", "TrainController")


def make_search(config: RunConfig, trials: int = 2, **settings: object) -> Search:
    # Both choices leave the finite numbers at once; the default setting does not.
    space = parse_space({"optim.lr": {"choice": [1e30, 1e31]}})
    evaluation = {"eval.attacks": ["clean", "pgd-5"], "cluster.workers": 1}
    keys = {key.replace("__", "."): value for key, value in settings.items()}
    default = override(config, evaluation | keys)
    return Search(space, default, SearchOptions(trials=trials, search="random", first_rung=1))


def look_at_memory(found: dict[str, int], process: psutil.Process) -> None:
    """Notes how much memory a process of Ray has for itself, by what Ray calls it.

    Only of those that live long: the kernel looks at all their pages to say so.
    """
    title, *_ = process.cmdline() or [""]
    if title.startswith("ray::"):
        name = title.removeprefix("ray::").partition(".")[0]
        memory = process.memory_full_info().uss if name in _LONG_LIVED else 0
        found[name] = max(found.get(name, 0), memory)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks at processes in /proc")
def test_a_search_from_space_to_report(
    small_config: RunConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "search"
    memory: dict[str, int] = {}
    with looking_at_processes(partial(look_at_memory, memory), seconds=1.0):
        trials = run_search(check(make_search(small_config)), folder)
    for name in _LONG_LIVED:
        assert 0 < memory[name] < _LARGE, f"{name} has {memory[name]} bytes"
    assert "RayTrainWorker" in memory
    output = capfd.readouterr()
    assert [trial.state for trial in trials] == ["finished", "failed"]
    assert "not finite" in trials[1].error
    assert trials[0].validation["pgd-5"]["samples"] == 10
    assert [row["number"] for row in pq.read_table(folder / "trials.parquet").to_pylist()] == [0, 1]
    best = build_config([read_settings(folder / "best.yaml")])
    assert best.optim.lr == small_config.optim.lr
    default = folder / "trials" / "0000"
    for name in (
        "config.yaml",
        "metrics.jsonl",
        "results.json",
        "outcomes.parquet",
        "validation.parquet",
        "report.html",
        "model/config.json",
    ):
        assert (default / name).exists(), name
    page = (folder / "report.html").read_text()
    assert "not finite" in page
    assert "trials/0000/report.html" in page
    assert "trial 1 failed: the loss is not finite" in output.out.replace("loss of", "loss is")
    for noise in ("ray::", "core_worker", "INFO", "Configuration", "Traceback", "WARNING"):
        assert noise not in output.out + output.err
    # A job that is tried again gives the same command: nothing is trained twice.
    before = (default / "metrics.jsonl").stat().st_mtime_ns
    with pytest.raises(UserError, match="--resume"):
        run_search(check(make_search(small_config)), folder)
    again = run_search(check(make_search(small_config)), folder, resume=True)
    assert again == trials
    assert (default / "metrics.jsonl").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("attacks", "judge"),
    [
        (["clean", "autoattack"], "autoattack-sampled"),
        (["autoattack-sampled", "pgd-5"], "autoattack-sampled"),
        (["clean", "autoattack-rand", "pgd-5"], "autoattack-rand"),
        (["clean", "pgd-5"], "pgd-5"),
    ],
)
def test_who_judges_finalists(small_config: RunConfig, attacks: list[str], judge: str) -> None:
    assert search_module.deciding_attack(override(small_config, {"eval.attacks": attacks})) == judge


def test_a_store_has_the_search_before_its_first_trial(
    small_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (there / "search").mkdir(parents=True)
    set_mirror_address(here, there.as_uri())

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(search_module, "run_trials", killed)
    with pytest.raises(KeyboardInterrupt):
        run_search(Plan(make_search(small_config), 1, False, 1), here / "search")
    assert (there / "search" / "search.yaml").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cluster__workers": 99, "train__batch_size": 999}, "have room for 2"),
        ({"cluster__gpu": True, "cluster__workers": 2}, "GPU"),
        ({"data__path": "nowhere"}, "nowhere"),
    ],
)
def test_what_never_fits_is_refused(
    small_config: RunConfig, settings: dict[str, object], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        check(make_search(small_config, **settings))


def test_a_grid_of_another_size_is_refused(small_config: RunConfig) -> None:
    search = make_search(small_config, trials=9)
    grid = SearchOptions(trials=9, search="grid")
    with pytest.raises(UserError, match="give --trials 3"):
        check(Search(search.space, search.default, grid))


def test_a_choice_that_cannot_be_built_is_refused(small_config: RunConfig) -> None:
    search = make_search(small_config)
    space = parse_space({"optim.name": {"choice": ["sgd", "sgdd"]}})
    with pytest.raises(UserError, match="sgdd"):
        check(Search(space, search.default, search.options))


def test_what_workers_held_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    def hold() -> str:
        group = placement_group([{"CPU": 1}])
        ray.get(group.ready(), timeout=60)
        inside = PlacementGroupSchedulingStrategy(group)
        remote = ray.remote(num_cpus=1)(placement_groups.current_group)
        assert ray.get(remote.options(scheduling_strategy=inside).remote()) == group.id.hex()
        return str(group.id.hex())

    def held() -> set[str]:
        table = ray.util.placement_group_table()
        return {key for key, group in table.items() if group["state"] != "REMOVED"}

    monkeypatch.setattr(placement_groups, "_GRACE_SECONDS", 0.1)
    assert placement_groups.current_group() == ""
    first, second = hold(), hold()
    placement_groups.remove_group_later(first).join()
    assert first not in held()
    assert second in held()
    # What is gone already does no harm.
    placement_groups.remove_group_later(first).join()
    placement_groups.remove_all_groups()
    assert second not in held()


def test_what_fits_side_by_side() -> None:
    cpus = int(ray.cluster_resources()["CPU"])
    assert side_by_side(1, 1, gpu=False) == cpus
    assert side_by_side(cpus, 1, gpu=False) == 1
    assert side_by_side(1, cpus + 1, gpu=False) == 0
    assert side_by_side(1, 1, gpu=True) <= cpus
