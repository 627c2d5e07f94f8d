"""The same images from wherever they lie are the same data set."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dynat_ray.data.info import DatasetInfo
from dynat_ray.data.preparing import prepare_dataset
from dynat_ray.data.preparing.shard_files import expand_braces
from dynat_ray.data.preparing.sources import absolute_source
from dynat_ray.errors import UserError
from tests.data.conftest import WriteFolder

CLASSES = ("cat", "dog", "eel")


def prepared(source: str, out: Path) -> DatasetInfo:
    return prepare_dataset(source, out, progress=False)


def refused(source: str, out: Path, match: str) -> None:
    with pytest.raises(UserError, match=match):
        prepared(source, out)
    assert not out.exists()


@pytest.fixture
def pets(write_folder: WriteFolder, tmp_path: Path) -> tuple[Path, DatasetInfo]:
    """A folder of images, and what it is prepared to."""
    root = write_folder()
    # One of another mode: the source must not make a difference to that, either.
    Image.new("L", (10, 12), 7).save(root / "train" / "cat" / "000.png")
    return root, prepared(f"folder:{root}", tmp_path / "from_folder")


def samples(root: Path, split: str) -> list[tuple[Path, int]]:
    return [
        (file, label)
        for label, name in enumerate(CLASSES)
        for file in sorted((root / split / name).iterdir())
    ]


def write_table(
    file: Path, images: list[bytes | None], labels: list[object], *, names: bool = True
) -> None:
    """Writes a table as `datasets` does."""
    file.parent.mkdir(parents=True, exist_ok=True)
    features: dict[str, object] = {"picture": {"_type": "Image"}}
    features["animal"] = {"_type": "ClassLabel", "names": list(CLASSES)}
    rows = [None if each is None else {"bytes": each, "path": "x.png"} for each in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"picture": pa.array(rows, kind), "animal": labels})
    if names:
        described = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": described})
    else:
        table = table.rename_columns(["image", "label"])
    pq.write_table(table, file, row_group_size=4)


def write_tables(root: Path, target: Path, *, names: bool = True) -> None:
    for split, called in (("train", "train"), ("test", "validation")):
        found = samples(root, split)
        for number, part in enumerate((found[:4], found[4:])):
            images: list[bytes | None] = [file.read_bytes() for file, _ in part]
            file = target / "data" / f"{called}-{number:05d}-of-00002.parquet"
            write_table(file, images, [label for _, label in part], names=names)


def write_shards(root: Path, target: Path, label: Callable[[int], tuple[str, bytes]]) -> None:
    target.mkdir()
    for split, called in (("train", "train"), ("test", "val")):
        found = samples(root, split)
        for number, part in enumerate((found[:4], found[4:])):
            with tarfile.open(target / f"pets-{called}-{number:02d}.tar", "w") as tar:
                for place, (file, each) in enumerate(part):
                    key = f"{place:04d}"
                    ending, content = label(each)
                    for name, data in ((f"{key}.png", file.read_bytes()), (key + ending, content)):
                        member = tarfile.TarInfo(name)
                        member.size = len(data)
                        tar.addfile(member, io.BytesIO(data))


def same(one: DatasetInfo, other: DatasetInfo) -> None:
    assert one.checksum == other.checksum
    assert (one.classes, one.counts, one.size) == (other.classes, other.counts, other.size)


def test_hugging_face_tables(pets: tuple[Path, DatasetInfo], tmp_path: Path) -> None:
    root, expected = pets
    write_tables(root, tmp_path / "hub")
    found = prepared(f"hf:{tmp_path / 'hub'}", tmp_path / "out")
    same(found, expected)
    assert found.class_order == "text"


def test_tables_whose_card_names_the_classes(
    pets: tuple[Path, DatasetInfo], tmp_path: Path
) -> None:
    root, expected = pets
    write_tables(root, tmp_path / "hub", names=False)
    names = "".join(f"          '{number}': {name}\n" for number, name in enumerate(CLASSES))
    (tmp_path / "hub" / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n"
        f"    dtype:\n      class_label:\n        names:\n{names}---\n# Pets\n"
    )
    same(prepared(f"hf:{tmp_path / 'hub'}", tmp_path / "out"), expected)
    plain = prepared(f"parquet:{tmp_path}/hub/data/*.parquet", tmp_path / "plain")
    assert plain.checksum == expected.checksum
    assert plain.classes == ["0", "1", "2"]


def test_folders_that_datasets_saves(pets: tuple[Path, DatasetInfo], tmp_path: Path) -> None:
    root, expected = pets
    for split in ("train", "test"):
        found = samples(root, split)
        images = pa.array([{"bytes": file.read_bytes(), "path": None} for file, _ in found])
        table = pa.table({"image": images, "label": [CLASSES[label] for _, label in found]})
        (tmp_path / "saved" / split).mkdir(parents=True)
        file = tmp_path / "saved" / split / "data-00000-of-00001.arrow"
        with pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    same(prepared(f"hf:{tmp_path / 'saved'}", tmp_path / "out"), expected)


def test_webdataset_shards(pets: tuple[Path, DatasetInfo], tmp_path: Path) -> None:
    root, expected = pets
    write_shards(root, tmp_path / "shards", lambda label: (".cls", str(label).encode()))
    (tmp_path / "shards" / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    same(
        prepared(f"wds:{tmp_path}/shards/pets-{{train,val}}-{{00..01}}.tar", tmp_path / "o"),
        expected,
    )
    by_name = tmp_path / "by_name"
    write_shards(
        root, by_name, lambda label: (".json", json.dumps({"label": CLASSES[label]}).encode())
    )
    same(prepared(f"wds:{by_name}", tmp_path / "out"), expected)


def test_a_list_of_files(pets: tuple[Path, DatasetInfo], tmp_path: Path) -> None:
    root, expected = pets
    with (root / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "path", "split", "seen"])
        for split in ("train", "test"):
            for image, label in samples(root, split):
                writer.writerow([CLASSES[label], image.relative_to(root), split, "yes"])
    same(prepared(f"csv:{root / 'list.csv'}", tmp_path / "out"), expected)


def test_labels_of_competitions_are_not_published(
    pets: tuple[Path, DatasetInfo], tmp_path: Path
) -> None:
    root, expected = pets
    write_tables(root, tmp_path / "hub")
    picture = (root / "train" / "cat" / "001.png").read_bytes()
    write_table(tmp_path / "hub" / "data" / "test-00000-of-00001.parquet", [picture] * 2, [-1, -1])
    found = prepared(f"hf:{tmp_path / 'hub'}", tmp_path / "out")
    same(found, expected)
    assert [each.count for each in found.account.left_out] == [2]


@pytest.mark.parametrize(
    ("columns", "rows", "match"),
    [
        (["photo", "kind"], None, r"no image column; there are: photo, kind .*\?image=COLUMN"),
        (["image", "kind"], None, r"no label column; there are: image, kind"),
        (["image", "label"], [0, None], r"row 1 \(from 0\) has no label"),
        (["image", "label"], [0.5, 1.5], r"holds 0.5; a label is a whole number or a name"),
    ],
)
def test_tables_that_lack_something(
    columns: list[str], rows: list[object] | None, match: str, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        first = ["a", "b"] if columns[0] == "photo" else [b"a", b"b"]
        table = pa.table(dict(zip(columns, [first, rows or [0, 1]], strict=True)))
        pq.write_table(table, tmp_path / f"{split}.parquet")
    refused(f"parquet:{tmp_path}", tmp_path / "out", match)


def test_a_row_without_an_image_is_named(pets: tuple[Path, DatasetInfo], tmp_path: Path) -> None:
    root, _ = pets
    picture = (root / "train" / "cat" / "001.png").read_bytes()
    for split in ("train", "test"):
        images = [picture, None, picture, picture]
        write_table(tmp_path / "hub" / f"{split}.parquet", images, [0, 0, 1, 2])
    match = r"train.parquet/1 \(the row holds no bytes of an image\).*--skip-bad"
    refused(f"hf:{tmp_path / 'hub'}", tmp_path / "out", match)


def test_no_test_split(tmp_path: Path) -> None:
    write_table(tmp_path / "train.parquet", [b"x"], [0])
    refused(f"hf:{tmp_path}", tmp_path / "out", r"no test split \(test or val\), only: train")


def test_a_sample_without_a_label(pets: tuple[Path, DatasetInfo], tmp_path: Path) -> None:
    write_shards(pets[0], tmp_path / "shards", lambda label: (".txt", b"a caption"))
    match = r"sample of 0000.png has no label, only .txt; it must be"
    refused(f"wds:{tmp_path / 'shards'}", tmp_path / "out", match)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no column 'path'; its first line must name .* and is: empty"),
        ("path,label\na.png,cat\n", "no column 'split'"),
        ("path,label,split\na.png,,train\n", "line 2 has no label"),
        ("path,label,split\na.png,cat,train\n", "no test split"),
    ],
)
def test_lists_that_lack_something(text: str, match: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(text)
    refused(f"csv:{tmp_path / 'list.csv'}", tmp_path / "out", match)


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ("hf:/nowhere/at/all", "is no name on the hub"),
        ("wds:/nowhere/{00..03}.tar", "no file or folder '/nowhere/00.tar'"),
        ("parquet:https://host/x.parquet", "'https://' is no object store"),
    ],
)
def test_files_that_are_not_there(source: str, match: str, tmp_path: Path) -> None:
    refused(source, tmp_path / "out", match)


def test_braces() -> None:
    assert expand_braces("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert expand_braces("{t-{0..1},v}.{x,y}") == ["t-0.x", "t-0.y", "t-1.x", "t-1.y", "v.x", "v.y"]
    assert expand_braces("plain}.tar") == ["plain}.tar"]


def test_a_source_that_another_folder_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_source("digits") == "digits"
    assert absolute_source("wds:a-{0..1}.tar") == f"wds:{tmp_path}/a-{{0..1}}.tar"
    assert absolute_source("hf:owner/name?config=x") == "hf:owner/name?config=x"
    assert absolute_source("parquet:s3://bucket/x") == "parquet:s3://bucket/x"


def test_shards_in_a_store(
    pets: tuple[Path, DatasetInfo], bucket: str, s3: str, tmp_path: Path
) -> None:
    import boto3

    root, expected = pets
    write_shards(root, tmp_path / "shards", lambda label: (".cls", CLASSES[label].encode()))
    client = boto3.client("s3", endpoint_url=s3)
    for file in sorted((tmp_path / "shards").iterdir()):
        client.upload_file(str(file), bucket.removeprefix("s3://"), f"pets/{file.name}")
    shards = f"{bucket}/pets/pets-{{train,val}}-{{00..01}}.tar"
    same(prepared(f"wds:{shards}", tmp_path / "out"), expected)
    refused(f"wds:{bucket}/cats/x-{{train,val}}.tar", tmp_path / "none", "there is no file")
    refused(f"wds:{bucket}/cats", tmp_path / "none", "is empty: no file")


def test_images_may_be_named_by_any_column(tmp_path: Path) -> None:
    pictures = []
    for level in (1, 2, 3, 4):
        buffer = io.BytesIO()
        Image.fromarray(np.full((4, 4, 3), level, np.uint8)).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    for split in ("train", "test"):
        table = pa.table({"photo": pictures, "icon": pictures, "kind": ["b", "b", "a", "a"]})
        pq.write_table(table, tmp_path / f"{split}.parquet")
    found = prepared(f"parquet:{tmp_path}?image=photo&label=kind", tmp_path / "out")
    assert found.classes == ["a", "b"]


def test_a_name_on_the_hub(
    pets: tuple[Path, DatasetInfo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, expected = pets
    asked: list[tuple[str, str | None]] = []

    def snapshot_download(name: str, *, revision: str | None, **_: object) -> str:
        asked.append((name, revision))
        # Its own files are of another kind; the hub has made tables of them.
        return str(tmp_path / ("converted" if revision else "hub"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    (tmp_path / "hub").mkdir()
    write_tables(root, tmp_path / "converted" / "default")
    found = prepared("hf:owner/pets", tmp_path / "out")
    same(found, expected)
    assert found.name == "pets"
    assert asked == [("owner/pets", None), ("owner/pets", "refs/convert/parquet")]
    write_tables(root, tmp_path / "converted" / "large")
    refused("hf:owner/pets", tmp_path / "no", r"several data sets: default, large; .*\?config=NAME")
    write_table(tmp_path / "converted" / "large" / "partial-train" / "0.parquet", [b"x"], [0])
    refused("hf:owner/pets", tmp_path / "no", "has converted only a part")


def test_the_hub_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_: object, **__: object) -> str:
        raise ConnectionError("no route to it\nand more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    match = r"no such tables \(no route to it\); look at the name and the network, log in"
    refused("hf:owner/pets", tmp_path / "out", match)
