"""The files for Kubernetes against the definitions that operators install in a cluster.

`kubernetes_fields` knows the fields that are used here. The definitions know all; they are large
and others' work, so that no copy lies here: `DYNAT_RAY_CRDS` names a folder of them, as in
`.github/workflows/ci.yml`.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.cluster.test_kuberay import FILES, FOLDER, OVERLAYS, built

DEFINITIONS = Path(os.environ.get("DYNAT_RAY_CRDS", ""))
pytestmark = pytest.mark.skipif(
    not os.environ.get("DYNAT_RAY_CRDS"), reason="DYNAT_RAY_CRDS names no folder"
)
# What Kubernetes itself defines is no operator's.
OURS = {"RayJob", "RayCluster", "PodMonitor", "NodePool"}


@cache
def definitions() -> dict[tuple[str, str], Draft202012Validator]:
    """What checks an object, by its version and kind."""
    found = {}
    for file in sorted(DEFINITIONS.glob("*.yaml")):
        specification = yaml.load(file.read_text(), Loader=yaml.CSafeLoader)["spec"]
        for version in specification["versions"]:
            name = f"{specification['group']}/{version['name']}"
            schema = strict(version["schema"]["openAPIV3Schema"])
            found[name, specification["names"]["kind"]] = Draft202012Validator(schema)
    return found


def strict(schema: Any) -> Any:
    """Makes a definition refuse what it does not know, which the API server drops in silence."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    known = schema.get("properties")
    # Of an object's own `metadata` definitions say nothing.
    if isinstance(known, dict) and known and "type" in schema:
        made.setdefault("additionalProperties", False)
    return made


def check(objects: list[dict[str, Any]]) -> int:
    """Returns how many of the objects were checked; fails for what is wrong with them."""
    checked = 0
    for each in objects:
        if each["kind"] in OURS:
            validator = definitions()[each["apiVersion"], each["kind"]]
            errors = [
                f"{error.json_path}: {error.message}" for error in validator.iter_errors(each)
            ]
            assert errors == []
            checked += 1
    return checked


def test_files_have_the_real_fields() -> None:
    objects = [each for file in FILES for each in yaml.safe_load_all(file.read_text())]
    assert check(objects) >= len(OURS)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_have_the_real_fields(overlay: str) -> None:
    assert check(list(built(FOLDER / "overlays" / overlay).values())) >= 1


def test_a_misspelt_field_is_found() -> None:
    job = built(FOLDER / "base")["RayJob dynat-ray-train"]
    pod = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    pod["containers"][0]["resource"] = {}
    with pytest.raises(AssertionError, match="'resource' was unexpected"):
        check([job])
