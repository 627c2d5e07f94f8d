"""What several rooms' tests share: data sets, runs and models."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from filelock import FileLock
from matplotlib.backends.backend_svg import FigureCanvasSVG

from dynat_ray.config import RunConfig
from dynat_ray.data import load_info, load_test_images
from dynat_ray.data.preparing import prepare_dataset
from dynat_ray.distributed import evaluation_run
from dynat_ray.models import build_model, save_model
from dynat_ray.report import drawing
from dynat_ray.settings import build_config
from tests.loopback_s3 import bucket, s3, server
from tests.quick_attack import iterations
from tests.small_run import SMALL
from tests.victim import EPS, Victim, train_victim

__all__ = ["bucket", "s3", "server"]

torch.set_num_threads(1)


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


Trained = Callable[[int, int, float], Victim]


@pytest.fixture(scope="session")
def trained_victim(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Returns a function that trains a victim, or reads what another test process trained."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def trained(classes: int, steps: int, eps: float) -> Victim:
        file = folder / f"victim-{classes}-{steps}-{eps}.pt"
        with FileLock(f"{file}.lock"):
            if not file.exists():
                torch.save(train_victim(classes, steps=steps, eps=eps), file)
        return torch.load(file, weights_only=False)

    return trained


@pytest.fixture(scope="session")
def robust(trained_victim: Trained) -> Victim:
    """About 97 % clean and 85 % at `EPS` under Linf."""
    return trained_victim(10, 250, EPS)


@pytest.fixture(scope="session")
def robust_few(trained_victim: Trained) -> Victim:
    """Tells four classes apart: the fewest for which no loss is another than in the literature."""
    return trained_victim(4, 100, EPS)


@pytest.fixture(scope="session")
def plain(trained_victim: Trained) -> Victim:
    """Trained on clean images: accurate, and easily fooled."""
    return trained_victim(10, 120, 0.0)


@pytest.fixture
def few_iterations() -> Iterator[int]:
    """Has APGD and FAB make so many iterations."""
    count = 20
    with iterations(count):
        yield count


class _Undrawn(FigureCanvasSVG):
    def print_svg(self, filename: Any, **_: Any) -> None:
        """Writes a figure of nothing."""
        filename.write(b'<svg xmlns="http://www.w3.org/2000/svg"/>')


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has figures filled but not drawn, which takes most of a page's time: tests/report draws."""
    monkeypatch.setattr(drawing, "FigureCanvasSVG", _Undrawn)


@pytest.fixture
def no_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the attacks that an evaluation makes to check what others found.

    `test_distances_and_page` has them from end to end, tests/evaluation one by one.
    """
    for check in ("check_attacks", "check_transfer"):
        monkeypatch.setattr(evaluation_run, check, lambda *arguments, **settings: [])
