"""A comparison on one local Ray: order, failures, going on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from dynat_ray.config import RunConfig
from dynat_ray.config_files import override
from dynat_ray.distributed.comparison import ComparedRun, compare
from dynat_ray.distributed.session import connect
from dynat_ray.errors import UserError
from dynat_ray.methods import method_settings
from dynat_ray.report.method_table import run_folder
from dynat_ray.training.run_folder import read_run_config


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    connect()
    yield
    ray.shutdown()


def test_runs_wait_for_what_they_need_and_failures_stop_nothing(
    small_config: RunConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "comparison"
    common = {
        "cluster.workers": 1,
        "train.epochs": 1,
        "eval.attacks": ["clean", "pgd-2"],
    }

    def planned(label: str, after: str = "", **settings: object) -> ComparedRun:
        own = {key.replace("__", "."): value for key, value in settings.items()}
        config = override(small_config, common | {"method.name": label} | own, method_settings())
        return ComparedRun(label, 0, config, after)

    standard = planned("standard")
    model = str(run_folder(folder, "standard", 0))
    helped = planned("hat", "standard", method__standard_model=model)
    broken = planned("pgd_at", optim__lr=1e30)
    with pytest.raises(UserError, match="1 of 3 runs failed: pgd_at, seed 0: the loss is not"):
        compare([helped, broken, standard], folder)
    output = capfd.readouterr().out
    assert output.index("standard, seed 0: done") < output.index("hat, seed 0: done")
    assert "| hat" in (folder / "compare.md").read_text()
    assert "pgd_at" not in (folder / "compare.md").read_text()
    assert read_run_config(run_folder(folder, "hat", 0)).method.standard_model == model

    with pytest.raises(UserError, match="--resume"):
        compare([standard, helped], folder)
    results = run_folder(folder, "hat", 0) / "results.json"
    before = results.stat().st_mtime_ns
    table = compare([standard, helped], folder, resume=True)
    assert results.stat().st_mtime_ns == before, "what has ended is not done again"
    assert "| standard" in table
