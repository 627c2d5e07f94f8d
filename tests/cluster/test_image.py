"""The Dockerfile: the Ray that the YAML files name, and files that there are."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
from pathlib import Path

import pytest
import ray
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
_NAMES = "REGISTRY|DIGEST|AMI|FILE_SYSTEM|SECURITY_GROUP|ACCOUNT|BUCKET|USER|SUBNET|ZONE"
WORDS = rf"\b(?:{_NAMES}|NODE_CLASS|QUEUE|CORES|GPUS|\w+_ADDRESS)\b"
DOCKERFILE = (ROOT / "cluster" / "Dockerfile").read_text()


def test_its_ray_is_the_clusters() -> None:
    (version,) = re.findall(r"^ARG RAY_VERSION=(.+)$", DOCKERFILE, re.MULTILINE)
    job = yaml.safe_load((ROOT / "cluster" / "kuberay" / "base" / "rayjob.yaml").read_text())
    assert version == ray.__version__ == job["spec"]["rayClusterSpec"]["rayVersion"]


def pins() -> dict[str, tuple[str, int]]:
    """Returns what the image installs: for each package its version and how many hashes it has."""
    found = {}
    text = (ROOT / "cluster" / "requirements.txt").read_text()
    for entry in re.sub(r"\\\n", "", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines():
        name, version, hashes = re.fullmatch(
            r"(\S+)==(\S+)((?:\s+--hash=sha256:\w{64})+)", entry
        ).groups()
        found[name] = version, hashes.count("sha256:")
    return found


def test_what_it_installs_is_named_by_version_and_hash_and_no_address() -> None:
    locked = pins()
    assert len(locked) > 100
    assert all(hashes > 0 for _, hashes in locked.values())
    assert "://" not in (ROOT / "cluster" / "requirements.txt").read_text()
    assert "pip install --no-cache-dir --require-hashes -r cluster/requirements.txt" in DOCKERFILE
    assert "pip install --no-cache-dir --no-deps ." in DOCKERFILE


def test_what_it_installs_is_what_the_package_asks_for_with_the_clusters_ray_and_python() -> None:
    locked = {canonicalize_name(name): version for name, (version, _) in pins().items()}
    (version,) = re.findall(r"^ARG RAY_VERSION=(.+)$", DOCKERFILE, re.MULTILINE)
    assert locked["ray"] == version
    (python,) = re.findall(r"^ARG PYTHON=py(.)(.+)$", DOCKERFILE, re.MULTILINE)
    made = (ROOT / "cluster" / "requirements.txt").read_text()
    assert f"--python-version {'.'.join(python)} " in made
    wanted = [Requirement(each) for each in importlib.metadata.requires("dynat-ray") or []]
    checked = 0
    for each in wanted:
        extras = ("", "ffcv", "tune", "eval")
        if each.marker is None or any(each.marker.evaluate({"extra": e}) for e in extras):
            assert each.specifier.contains(locked[canonicalize_name(each.name)]), each
            checked += 1
    assert checked > 20


def test_a_release_is_built_on_the_image_that_was_looked_at() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "image.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert workflow["permissions"] == {"contents": "read"}
    (build,) = [step["with"] for step in job["steps"] if step.get("id") == "build"]
    assert (ROOT / build["file"]).is_file()
    assert build["build-args"] == "RAY_DIGEST=${{ vars.RAY_DIGEST }}"
    assert build["push"] is True


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
    reader = "fluent/fluent-bit@sha256:FLUENT_BIT_DIGEST"
    assert len(found) == 10
    assert set(found) == {"REGISTRY/dynat-ray@sha256:DIGEST", reader}


def unfilled(file: Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", ROOT / "cluster" / "unfilled.sh", file]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_ffcv_and_the_token_are_in() -> None:
    assert "ffcv" in DOCKERFILE
    assert "RAY_AUTH_MODE=token" in DOCKERFILE
