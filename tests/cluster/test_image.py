"""The Dockerfile: the Ray that the YAML files name, and files that there are."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import ray
import yaml

ROOT = Path(__file__).parents[2]
_NAMES = "REGISTRY|DIGEST|AMI|FILE_SYSTEM|SECURITY_GROUP|ACCOUNT|BUCKET|USER|SUBNET|ZONE"
WORDS = rf"\b(?:{_NAMES}|NODE_CLASS|QUEUE|CORES|GPUS|\w+_ADDRESS)\b"
DOCKERFILE = (ROOT / "cluster" / "Dockerfile").read_text()


def test_its_ray_is_the_clusters() -> None:
    (version,) = re.findall(r"^ARG RAY_VERSION=(.+)$", DOCKERFILE, re.MULTILINE)
    job = yaml.safe_load((ROOT / "cluster" / "kuberay" / "base" / "rayjob.yaml").read_text())
    assert version == ray.__version__ == job["spec"]["rayClusterSpec"]["rayVersion"]


def test_the_page_names_the_image_that_it_is_built_on() -> None:
    (version,) = re.findall(r"^ARG RAY_VERSION=(.+)$", DOCKERFILE, re.MULTILINE)
    (python,) = re.findall(r"^ARG PYTHON=(.+)$", DOCKERFILE, re.MULTILINE)
    page = (ROOT / "cluster" / "README.md").read_text()
    assert f"rayproject/ray:{version}-{python}-gpu " in page
    assert f"'ray[default]=={version}'" in page


def test_what_it_copies_is_there_and_not_ignored() -> None:
    copied = re.findall(r"^COPY --chown=\S+ (.+) \S+$", DOCKERFILE, re.MULTILINE)
    ignored = (ROOT / "cluster" / "Dockerfile.dockerignore").read_text().splitlines()
    assert copied
    for name in " ".join(copied).split():
        assert (ROOT / name).exists()
        assert f"!{name}" in ignored


def test_what_it_is_built_on_is_named_by_digest() -> None:
    assert re.findall(r"^ARG RAY_DIGEST=(.*)$", DOCKERFILE, re.MULTILINE) == [""]
    bases = re.findall(r"^FROM (.+)$", DOCKERFILE, re.MULTILINE)
    assert [base.partition("@")[2] for base in bases] == ["${RAY_DIGEST}"]
    assert "--build-arg RAY_DIGEST=sha256:" in (ROOT / "cluster" / "README.md").read_text()


def files_with_images() -> list[Path]:
    files = [*(ROOT / "cluster").rglob("*.yaml"), *(ROOT / "cluster").rglob("*.json")]
    return sorted(file for file in files if _words(file))


def _words(file: Path) -> list[str]:
    lines = [line.partition("#")[0] for line in file.read_text().splitlines()]
    return re.findall(WORDS, "\n".join(lines))


@pytest.mark.parametrize("file", files_with_images(), ids=lambda file: file.name)
def test_a_file_that_is_not_filled_in_is_refused(file: Path, tmp_path: Path) -> None:
    done = unfilled(file)
    assert done.returncode == 1
    assert f"error: {file} is not filled in yet" in done.stderr
    filled = tmp_path / file.name
    text = file.read_text().replace("DIGEST", "0" * 64)
    for word in sorted(set(_words(file)), key=len, reverse=True):
        text = text.replace(word, "filled")
    filled.write_text(text)
    done = unfilled(filled)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("image", ["ours/dynat-ray:0.1.0", "ours/dynat-ray", "a@sha256:00"])
def test_an_image_without_a_digest_is_refused(image: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(f"image: x@sha256:{'0' * 64}\n  - image: {image}\n")
    done = unfilled(tmp_path / "job.yaml")
    assert done.returncode == 1
    assert "by digest" in done.stderr


def test_all_images_are_named_by_digest() -> None:
    found = [
        line.split()[-1]
        for file in (ROOT / "cluster").rglob("*.yaml")
        for line in file.read_text().splitlines()
        if re.match(r"[\s-]*image:", line)
    ]
    assert len(found) == 9
    assert set(found) == {"REGISTRY/dynat-ray@sha256:DIGEST"}


def unfilled(file: Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", ROOT / "cluster" / "unfilled.sh", file]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_ffcv_and_the_token_are_in() -> None:
    assert "ffcv" in DOCKERFILE
    assert "RAY_AUTH_MODE=token" in DOCKERFILE
