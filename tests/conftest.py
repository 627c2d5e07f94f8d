"""What several rooms' tests share."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
import yaml
from xdist.scheduler import LoadFileScheduling

from dynat_ray.config import RunConfig
from dynat_ray.data import load_info, load_test_images
from dynat_ray.data.preparing import prepare_dataset
from dynat_ray.distributed import evaluation_run
from dynat_ray.models import build_model, save_model
from dynat_ray.settings import build_config
from tests.loopback_s3 import bucket, s3, server
from tests.small_run import SMALL
from tests.victim import EPS, Victim, train_victim

__all__ = ["bucket", "s3", "server"]

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


_RAY = "tests/distributed/"
# What would leave one process alone for most of a minute if it came last.
_LONG = (
    _RAY,
    "tests/test_quickstart.py",
    "tests/benchmarks/test_rehearsal.py",
    "tests/benchmarks/test_peak_memory.py",
    "tests/training/test_other_device.py",
)


class _OneRay(LoadFileScheduling):
    """Gives a file to one process, and all of tests/distributed to the same: it starts Ray once."""

    def _split_scope(self, nodeid: str) -> str:
        return _RAY if nodeid.startswith(_RAY) else super()._split_scope(nodeid)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts first what takes longest, so that both processes end at the same time."""
    items.sort(key=lambda item: not item.nodeid.startswith(_LONG))


def pytest_collection_finish() -> None:
    """Keeps the collector from looking through all modules and tests again and again."""
    gc.collect()
    gc.freeze()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _OneRay:
    """Says who runs what where tests run side by side (`-n 3`), in the order of the items."""
    config.option.loadscopereorder = False
    return _OneRay(config, log)


_exit_status: list[int] = []


def pytest_sessionfinish(exitstatus: int) -> None:
    """Remembers what this process is to return."""
    _exit_status.append(int(exitstatus))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Ends this process as it is, when all has been said.

    Native threads of Ray, gRPC and Arrow's S3 outlive their tests; on a busy machine one of them
    crashed while the interpreter was taken down, after 930 tests had passed. Commands are tested
    as processes of their own, which end as they end for a user.
    """
    if _exit_status:
        ray.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_exit_status[-1])


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder of scikit-learn's digits."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    prepare_dataset("digits", folder, progress=False)
    return folder


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder of 60 of them, for tests that only read it."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    prepare_dataset("digits", folder, limit=60, progress=False)
    return folder


@pytest.fixture
def small_config(digits: Path) -> RunConfig:
    """A run that takes about a second."""
    settings = {
        **SMALL,
        "data.path": str(digits),
        "cluster.workers": 2,
        "cluster.gpu": False,
    }
    return build_config([settings])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, few_digits: Path) -> Path:
    """A run folder; its model is linear and untrained but for a few steps."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    info = load_info(few_digits)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(
            "mlp", num_classes=10, channels=1, size=info.size, mean=info.mean, std=info.std
        )
    images, labels = load_test_images(few_digits)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
    save_model(model, folder / "model")
    settings = {
        "data": {"path": str(few_digits)},
        "threat": {"norm": "Linf", "eps": 0.05},
        "eval": {"attacks": ["clean", "pgd-5", "apgd-t"], "samples": 20, "batch_size": 16},
        "train": {"seed": 3},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture(scope="session")
def robust() -> Victim:
    """About 97 % clean and 85 % at `EPS` under Linf."""
    return train_victim(10, steps=250, eps=EPS)


@pytest.fixture(scope="session")
def robust_few() -> Victim:
    """Tells four classes apart: the fewest for which no loss is another than in the literature."""
    return train_victim(4, steps=100, eps=EPS)


@pytest.fixture(scope="session")
def plain() -> Victim:
    """Trained on clean images: accurate, and easily fooled."""
    return train_victim(10, steps=120, eps=0.0)


@pytest.fixture
def few_iterations(monkeypatch: pytest.MonkeyPatch) -> int:
    """Has APGD and FAB make so many of the 100 iterations that `test_autoattack` holds them to."""
    count = 20
    monkeypatch.setattr("dynat_ray.attacks.apgd.ITERATIONS", count)
    monkeypatch.setattr("dynat_ray.attacks.fab._ITERATIONS", count)
    return count


@pytest.fixture
def no_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the attacks that an evaluation makes to check what others found.

    `test_distances_and_page` has them from end to end, tests/evaluation one by one.
    """
    for check in ("check_attacks", "check_transfer"):
        monkeypatch.setattr(evaluation_run, check, lambda *arguments, **settings: [])
