"""Pages say what is there: files, modules, settings, methods, recipes."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
import yaml

from dynat_ray.config import RunConfig
from dynat_ray.method_settings import method_settings
from dynat_ray.settings import build_config, flatten, recipe_names

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    page for pattern in ("*.md", "docs/**/*.md", "cluster/**/*.md") for page in ROOT.glob(pattern)
)
WIDTH = 100
SECTIONS = [field.name for field in fields(RunConfig)]
# What looks like `section.key` and is the name of a file.
FILE_NAMES = re.compile(r"\.(py|yaml|beton|safetensors|onnx|pt2|md|sbatch|html)$")

_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_CODE_BLOCK = re.compile(r"^ *(?:\d+\. +)?```.*?^ *```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)", re.MULTILINE)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def _text(page: Path) -> str:
    return _COMMENT.sub("", page.read_text())


def _prose(page: Path) -> str:
    return _CODE_BLOCK.sub("", _text(page))


def _anchors(page: Path) -> set[str]:
    """Returns the fragments that headings have on GitHub."""
    titles = (re.sub(r"[^\w\- ]", "", title.lower()) for title in _HEADING.findall(_prose(page)))
    return {title.strip().replace(" ", "-") for title in titles}


def exists(name: str) -> bool:
    """Returns whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        module = ".".join(parts[:count])
        try:
            found = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:
            found = False
        if found:
            if count == len(parts):
                return True
            value: object = importlib.import_module(module)
            for attribute in parts[count:]:
                if not hasattr(value, attribute):
                    return False
                value = getattr(value, attribute)
            return True
    return False


@cache
def known_settings() -> set[str]:
    """Returns every setting's full key, those of all methods included."""
    methods = method_settings()
    known = set(flatten({name: vars(part) for name, part in vars(build_config([])).items()}))
    return known | {f"method.{each.name}" for method in methods.values() for each in fields(method)}


def _page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


each_page = pytest.mark.parametrize("page", PAGES, ids=_page_id)


def test_there_are_pages() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/methods.md"} <= set(map(_page_id, PAGES))


@each_page
def test_lines_are_narrow(page: Path) -> None:
    lines = (re.sub(r"https?://\S+", "", line) for line in page.read_text().splitlines())
    assert [line for line in lines if len(line) > WIDTH] == []


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in map("".join, _LINK.findall(_prose(page))):
        if re.match(r"\w+:", target):
            continue
        path, _, fragment = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (fragment and fragment not in _anchors(file)):
            broken.append(target)
    assert broken == []


@each_page
def test_modules_exist(page: Path) -> None:
    names = re.findall(r"\bdynat_ray(?:\.\w+)+", _text(page))
    files = re.findall(
        r"(?<![\w/.-])(?:dynat_ray|tune_spaces|cluster|tests)/[\w./*-]+", _text(page)
    )
    files = [re.sub(r"\bNAME\b", "*", file).rstrip(".") for file in files]
    assert [name for name in dict.fromkeys(names) if not exists(name)] == []
    assert [file for file in dict.fromkeys(files) if not any(ROOT.glob(file.rstrip("/")))] == []


@each_page
def test_settings_exist(page: Path) -> None:
    section = "|".join(SECTIONS)
    pattern = rf"--((?:{section})\.\w+)|`((?:{section})\.[a-z]\w*)\b[^`(]*`"
    keys = map("".join, re.findall(pattern, _text(page)))
    unknown = dict.fromkeys(key for key in keys if not FILE_NAMES.search(key))
    assert [key for key in unknown if key not in known_settings()] == []


@each_page
def test_recipes_and_methods_exist(page: Path) -> None:
    recipes = re.findall(r"--recipe ([a-z][\w-]*)", _text(page))
    methods = re.findall(r"--method\.name ([a-z]\w*)", _text(page))
    assert set(recipes) <= set(recipe_names())
    own = re.findall(
        r'(?:name(?:: str)? ?= ?|register_as\()"(\w+)"', page.read_text(encoding="utf-8")
    )
    assert set(methods) <= {*method_settings(), *own}, "what is neither ours nor defined there"


@pytest.mark.parametrize("name", method_settings())
def test_each_method_is_described_with_its_settings(name: str) -> None:
    page = (ROOT / "docs" / "methods.md").read_text()
    _, heading, rest = page.partition(f"### `{name}`\n")
    section = rest.partition("\n#")[0]
    assert heading
    settings = [each.name for each in fields(method_settings()[name]) if each.name != "name"]
    assert [key for key in settings if not re.search(rf"`{key}`", section)] == []


def test_the_citation_file_is_complete() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == "Apache-2.0"
    assert {"title", "message", "authors", "version"} <= citation.keys()


def test_hooks_run_what_make_check_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    makefile = (ROOT / "Makefile").read_text()
    check = re.search(r"^check:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert check
    tools = re.findall(r"\$\(BIN\)/([\w-]+(?: (?:format|check))?)", check[1])
    hooked = re.findall(r"\.venv/bin/([\w-]+(?: (?:format|check))?)", "\n".join(map(str, hooks)))
    assert hooked == tools
