"""What error messages advise exists, and works when it is followed."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dynat_ray
from dynat_ray import evaluate, prepare
from dynat_ray.data import load_info, load_split
from dynat_ray.errors import UserError
from dynat_ray.models import load_model
from tests.models import zoo_networks as zoo
from tests.test_docs import FILE_NAMES, SECTIONS, exists, known_settings

CODE = Path(dynat_ray.__file__).parent
# Of Ray, in advice about clusters.
# Of `ray` and of `tar`.
_OF_OTHERS = {"--head", "--working-dir", "--dereference", "--hard-dereference"}
_FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*(?:\.\w+)?\w")
_SETTING = re.compile(rf"(?<![\w./-])(?:{'|'.join(SECTIONS)})\.[a-z]\w+")
_COMMAND = re.compile(r"python -m (dynat_ray\.\w+)")


def _texts() -> Iterator[tuple[str, str]]:
    """Yields each piece of text in the code that is no docstring, and its file's name."""
    for file in sorted(CODE.rglob("*.py")):
        tree = ast.parse(file.read_text())
        documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and " " in node.value
                and id(node) not in documentation
            ):
                yield str(file.relative_to(CODE)), node.value


def _options() -> set[str]:
    """Returns every option of a command, as the code adds it."""
    found = {"--help", "--version"}
    for file in CODE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in (
                "add",
                "add_argument",
            ):
                found |= {
                    each.value
                    for each in node.args
                    if isinstance(each, ast.Constant) and str(each.value).startswith("--")
                }
    return found


def test_options_settings_and_commands_in_messages_exist() -> None:
    options = _options()
    assert {"--resume", "--skip-bad", "--eps"} <= options
    unknown = []
    for file, text in _texts():
        for flag in _FLAG.findall(text):
            setting = flag.removeprefix("--") in known_settings()
            if flag not in options | _OF_OTHERS and not setting and flag != "--section.key":
                unknown.append((file, flag))
        for setting in _SETTING.findall(text):
            if setting not in known_settings() and not FILE_NAMES.search(setting):
                unknown.append((file, setting))
        unknown += [(file, name) for name in _COMMAND.findall(text) if not exists(name)]
    assert unknown == []


def refused(main: Callable[[Sequence[str]], Path], *arguments: str | Path) -> str:
    """Returns what a command says that refuses its arguments."""
    with pytest.raises(UserError) as error:
        main([str(each) for each in arguments])
    return str(error.value)


def obeyed(message: str, **places: str | Path) -> Path:
    """Runs the command that a message names, with something in the place of each capital word."""
    found = re.search(r"python -m dynat_ray\.(\w+) ([^,;]*?)(?: makes| and |,|;|$)", message)
    assert found, message
    words = [str(places.get(word, word)) for word in shlex.split(found[2])]
    written: Path = importlib.import_module(f"dynat_ray.{found[1]}").main(words)
    return written


def written_image(path: Path, largest: int, *, kind: type[np.generic] = np.uint8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(abs(hash(path.name)))
    pixels = generator.integers(0, largest + 1, (8, 8))
    pixels[0, 0] = largest
    Image.fromarray(pixels.astype(kind)).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of images, with a blank in its name."""
    folder = tmp_path / "my photos"
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            for number in range(3):
                written_image(folder / split / label / f"{number}.png", 255)
    return folder


def test_a_folder_of_images_is_prepared(photos: Path, tmp_path: Path) -> None:
    """It is not made in its own place, where something lies."""
    with pytest.raises(UserError) as error:
        load_info(photos)
    message = str(error.value)
    assert load_info(obeyed(message, DIR=tmp_path / "made")).num_classes == 2


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "a damaged data set"])
def test_what_is_missing_or_damaged_is_made(there: str, tmp_path: Path) -> None:
    folder = tmp_path / "my digits"
    if there != "nothing":
        folder.mkdir()
    if there == "a damaged data set":
        (folder / "dataset.json").write_text("{")
    with pytest.raises(UserError) as error:
        load_info(folder)
    # A part of it is enough here.
    prepared = obeyed(f"{error.value} --limit 20", SOURCE="digits")
    assert load_info(prepared).counts == {"train": 20, "test": 20}


def test_a_damaged_part_is_prepared_again(few_digits: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my digits"
    shutil.copytree(few_digits, folder)
    (folder / "test.safetensors").write_bytes(b"0")
    with pytest.raises(UserError) as error:
        load_split(folder, "test")
    obeyed(str(error.value))
    assert len(load_split(folder, "test")[0]) == 60


def test_bad_images_are_left_out(photos: Path, tmp_path: Path) -> None:
    (photos / "train" / "cat" / "0.png").write_bytes(b"no image")
    arguments = [f"folder:{photos}", "--out", tmp_path / "out"]
    (option,) = _FLAG.findall(refused(prepare.main, *arguments))
    prepare.main([*map(str, arguments), option])
    assert load_info(tmp_path / "out").skipped == 1


def test_the_depth_that_is_named_fits(photos: Path, tmp_path: Path) -> None:
    written_image(photos / "train" / "cat" / "0.png", 4000, kind=np.uint16)
    arguments = [f"folder:{photos}", "--out", str(tmp_path / "out"), "--bit-depth"]
    found = re.search(r"give --bit-depth (\d+)", refused(prepare.main, *arguments, "10"))
    assert found
    prepare.main([*arguments, found[1]])


def test_a_file_of_weights_is_converted(few_digits: Path, tmp_path: Path) -> None:
    file = tmp_path / "my weights.pt"
    torch.save(zoo.PreActResNet18(8, 7, norm=True).state_dict(), file)
    assert "give --arch" in refused(evaluate.main, file, "--data", few_digits)
    with pytest.raises(UserError) as error:
        load_model(file)
    made = obeyed(str(error.value), NAME="preact_resnet18", DIR=tmp_path / "made")
    assert load_model(made)


@pytest.mark.parametrize(
    ("mistake", "advice", "obeyed"),
    [
        ("--norm L2", "give --eps, such as 0.5", "--norm L2 --eps 0.5"),
        ("--norms Linf:0.05", "give --norm Linf and --eps instead", "--norm Linf --eps 0.05"),
        ("--attacks clean --out .", "give a file, such as ./a.json", "--out ./a.json"),
    ],
)
def test_evaluations_are_made(
    mistake: str,
    advice: str,
    obeyed: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert advice in refused(evaluate.main, run, *mistake.split())
    arguments = [str(run), "--attacks", "clean", "--out", "b.json", *obeyed.split()]
    assert evaluate.main(arguments).is_file()
