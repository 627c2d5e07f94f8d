"""A run that lives in an object store: there is everything, and it goes on from there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from dynat_ray.models import load_model
from dynat_ray.storage.metrics import read_metrics
from dynat_ray.storage.places import fetched
from tests.loopback_s3 import names

pytestmark = pytest.mark.faults

# A schedule that does not depend on the number of epochs.
SETTINGS = "--attack.steps 3 --eval.attacks clean,pgd-3 --optim.schedule constant"


def call(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *f"dynat_ray.{command}".split()],
        cwd=cwd,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_run_in_a_bucket_goes_on_from_there(s3: str, bucket: str, tmp_path: Path) -> None:
    address = f"{bucket}/runs"
    for epochs in (1, 2):
        command = f"train {SETTINGS} --train.epochs {epochs} --out {address} --name one --resume"
        done = call(command, tmp_path)
        print(done.stdout, done.stderr)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"{address}/one/report.html"
        assert f"epoch {epochs}/{epochs}" in done.stdout
    assert f"folder    {address}/one" in done.stdout
    assert "epoch 1/2" not in done.stdout
    found = names(s3, f"{address}/one")
    for name in ("config.yaml", "environment.json", "metrics.jsonl", "results.json", "report.html"):
        assert name in found
    assert "samples/epoch_0001.parquet" in found
    assert "model/model.safetensors" in found
    assert "model_last/model.safetensors" in found
    assert "checkpoints/epoch_0001/state.pt" in found
    assert any(name.startswith("tensorboard/") for name in found)
    # Nothing is left here, and no key went there.
    assert list(tmp_path.iterdir()) == []
    with fetched(f"{address}/one") as folder:
        metrics = (Path(folder) / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in metrics] == [0, 1]
        assert next(load_model(folder).parameters()).isfinite().all()
        key = os.environ["AWS_SECRET_ACCESS_KEY"].encode()
        assert not [f for f in Path(folder).rglob("*") if f.is_file() and key in f.read_bytes()]
    # The whole in one piece ends with the same weights.
    done = call(f"train {SETTINGS} --train.epochs 2 --out here --name whole", tmp_path)
    assert done.returncode == 0, done.stderr
    whole = load_model(tmp_path / "here" / "whole" / "model_last").state_dict()
    with fetched(f"{address}/one") as folder:
        parts = load_model(Path(folder) / "model_last").state_dict()
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_an_evaluation_is_kept_beside_the_run(s3: str, bucket: str, tmp_path: Path) -> None:
    call(f"train {SETTINGS} --train.epochs 1 --out {bucket} --name one", tmp_path)
    done = call(f"evaluate {bucket}/one --attacks clean --samples 50", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{bucket}/one/evaluation.json"
    assert "evaluation.json" in names(s3, f"{bucket}/one")


def test_a_comparison_and_a_search_are_kept_too(s3: str, bucket: str, tmp_path: Path) -> None:
    small = f"{SETTINGS} --train.epochs 1 --cluster.workers 1 --out {bucket}"
    done = call(f"compare --methods pgd_at,trades --name both {small}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{bucket}/both/compare.html"
    both = names(s3, f"{bucket}/both")
    assert {"compare.csv", "compare.md", "compare.html"} <= set(both)
    assert sum(name.endswith("model/model.safetensors") for name in both) == 2
    space = Path(__file__).parents[2] / "tune_spaces" / "trades.yaml"
    stops = "--first-rung 1 --reduction 2 --search random --train.epochs 4"
    done = call(f"tune {space} --trials 4 --name search {small} {stops}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{bucket}/search/report.html"
    search = names(s3, f"{bucket}/search")
    assert {"best.yaml", "trials.parquet", "report.html"} <= set(search)
    assert any(re.fullmatch(r"trials/0001/checkpoints/epoch_\d+/state\.pt", n) for n in search)
    assert list(tmp_path.iterdir()) == []
    # What a stopped trial did last is there too, and its report knows it.
    with fetched(f"{bucket}/search") as folder:
        trials = pq.read_table(Path(folder) / "trials.parquet").to_pylist()
        assert "stopped" in {trial["state"] for trial in trials}
        for trial in trials:
            own = Path(folder) / trial["folder"]
            assert (own / "report.html").exists()
            assert len(read_metrics(own / "metrics.jsonl")) == trial["epochs"]
            samples = sorted((own / "samples").iterdir())
            assert len(samples) == trial["epochs"]
