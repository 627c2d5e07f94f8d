"""The Dockerfile: the Ray that the YAML files name, and files that there are."""

from __future__ import annotations

import re
from pathlib import Path

import ray
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "cluster" / "Dockerfile").read_text()


def test_its_ray_is_the_clusters() -> None:
    (version,) = re.findall(r"^ARG RAY_VERSION=(.+)$", DOCKERFILE, re.MULTILINE)
    job = yaml.safe_load((ROOT / "cluster" / "kuberay" / "rayjob.yaml").read_text())
    assert version == ray.__version__ == job["spec"]["rayClusterSpec"]["rayVersion"]


def test_what_it_copies_is_there_and_not_ignored() -> None:
    copied = re.findall(r"^COPY --chown=\S+ (.+) \S+$", DOCKERFILE, re.MULTILINE)
    ignored = (ROOT / "cluster" / "Dockerfile.dockerignore").read_text().splitlines()
    assert copied
    for name in " ".join(copied).split():
        assert (ROOT / name).exists()
        assert f"!{name}" in ignored


def test_ffcv_and_the_token_are_in() -> None:
    assert "ffcv" in DOCKERFILE
    assert "RAY_AUTH_MODE=token" in DOCKERFILE
