"""Data sets of Hugging Face: a folder of Parquet or Arrow files, or a name on the hub."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from dynat_ray.data.preparing.image_tables import TABLE_ENDINGS, Columns, read_tables
from dynat_ray.data.preparing.shard_files import find_files
from dynat_ray.data.preparing.source import Source
from dynat_ray.data.preparing.split_names import split_named_by
from dynat_ray.errors import UserError
from dynat_ray.user_path import user_path

_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
# Where the hub itself puts tables that it makes of data sets that come as something else.
_CONVERTED = "refs/convert/parquet"
_DEFAULT = "default"


def read_huggingface(wanted: str, scratch: Path, options: dict[str, str]) -> Source:
    """Reads a data set with an image and a label column; runs none of its code.

    Args:
        wanted: A folder, as cloned from the hub or as `datasets` saves it, or a name on the hub,
            whose tables are then kept in Hugging Face's cache.
        scratch: Folder for the images.
        options: `image` and `label`, columns; `config`, which of several data sets in one.

    Raises:
        UserError: There is no such data set, or it lacks a split or column.
    """
    shown = f"hf:{wanted}"
    folder = user_path(wanted)
    if not folder.is_dir():
        folder = _from_hub(wanted)
    files = find_files(str(folder), TABLE_ENDINGS)
    relative = {file: PurePosixPath(file).relative_to(folder.as_posix()) for file in files}
    config = options.get("config", "")
    chosen = _one_config(shown, relative, config)
    split_of = {file: split_named_by(relative[file].as_posix()) for file in chosen}
    columns = Columns(options.get("image", ""), options.get("label", ""))
    label = columns.label or "label"
    names = _names_in_card(folder / "README.md", label, config)
    name = folder.resolve().name if folder == user_path(wanted) else wanted.rpartition("/")[2]
    return read_tables(shown, name, split_of, scratch, columns, names)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download  # half a second, for those who need it

    if not _NAME.fullmatch(name):
        raise UserError(f"hf:{name}: there is no folder '{name}', and it is no name on the hub")
    try:
        for revision in (None, _CONVERTED):
            folder = Path(
                snapshot_download(
                    name,
                    repo_type="dataset",
                    revision=revision,
                    allow_patterns=["*.parquet", "README.md"],
                    endpoint=os.environ.get("HF_ENDPOINT"),
                )
            )
            if tables := list(folder.rglob("*.parquet")):
                break
    # The hub's library has dozens of errors, and those of what it is built on.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"hf:{name}: there is no such folder, and the hub gives no such tables ({reason}); "
            "look at the name and the network, log in (hf auth login) for one that is not public, "
            "or give the folder of a copy"
        ) from error
    if not tables:
        raise UserError(f"hf:{name} has no Parquet files; download it, and give another source")
    if any(part.startswith("partial-") for table in tables for part in table.parts):
        raise UserError(
            f"hf:{name} comes as something else than Parquet, of which the hub has converted only "
            "a part; download it, and give another source"
        )
    return folder


def _one_config(shown: str, relative: dict[str, PurePosixPath], config: str) -> list[str]:
    """Returns the tables of one of several data sets that lie in folders of their own."""
    folders = {
        file: next(
            (part for part in path.parts[:-1] if part != "data" and not split_named_by(part)),
            _DEFAULT,
        )
        for file, path in relative.items()
    }
    there = sorted({*folders.values()})
    if config:
        found = [file for file, folder in folders.items() if folder == config]
        if not found:
            raise UserError(f"{shown} has no config '{config}', only: {', '.join(there)}")
        return found
    if len(there) > 1:
        raise UserError(
            f"{shown} holds several data sets: {', '.join(there)}; say which with ?config=NAME at "
            "the end of SOURCE"
        )
    return list(relative)


def _names_in_card(card: Path, label: str, config: str) -> list[str]:
    """Returns what the data set's card calls the labels 0, 1, ...; empty if it does not say."""
    if not card.is_file():
        return []
    parts = card.read_text(encoding="utf-8", errors="replace").split("---\n", 2)
    try:
        described: Any = yaml.safe_load(parts[1])["dataset_info"]
        several = described if isinstance(described, list) else [described]
        [info] = [each for each in several if not config or each.get("config_name") == config]
        [feature] = [each for each in info["features"] if each["name"] == label]
        names = feature["dtype"]["class_label"]["names"]
        return [str(names[key]) for key in sorted(names, key=int)]
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, yaml.YAMLError):
        return []
