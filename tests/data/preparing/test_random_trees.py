"""Random trees of folders, links, formats and names: all is counted, or one sentence says why."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dynat_ray.data import load_info, load_split
from dynat_ray.data.preparing import prepare_dataset
from dynat_ray.errors import UserError

CLASSES = ("cat", "Cat", "caf\u00e9", "cafe\u0301", "10", "9", ".hidden", "a b", "\u202ex")
NAMES = ("0.png", "1.jpg", "2.PNG", "._0.png", "sub/3.gif", "sub/4", "Thumbs.db", "train/5.webp")
KINDS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")
MODES = ("L", "RGB", "RGBA", "LA", "P", "1", "I;16", "CMYK")
TARGETS = (".", "..", "../..", "0.png", "../cat", "/dev/zero", "nowhere", "../../test/cat/0.png")

Files = dict[str, tuple[str, str, int]]
files = st.dictionaries(
    st.tuples(
        st.sampled_from(("train", "test", "val", "")), *map(st.sampled_from, (CLASSES, NAMES))
    ),
    st.tuples(st.sampled_from(KINDS), st.sampled_from(MODES), st.integers(0, 3)),
    max_size=8,
)
links = st.dictionaries(
    st.tuples(st.sampled_from(("train", "test")), st.sampled_from(CLASSES), st.just("link.png")),
    st.sampled_from(TARGETS),
    max_size=2,
)
others = st.dictionaries(
    st.tuples(st.sampled_from(("train", "test")), st.sampled_from(CLASSES), st.just("other.png")),
    st.sampled_from(("pipe", "text", "empty")),
    max_size=2,
)


def picture(kind: str, mode: str, seed: int) -> bytes:
    """An image file; its mode if the format has it, else colours."""
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 4, 4), dtype=np.uint8)
    image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 16)
    if mode != "I;16":
        image = Image.fromarray(pixels).convert("RGB" if mode in ("P", "1") else "RGBA")
        image = image.convert("RGB").convert(mode)
    file = io.BytesIO()
    try:
        image.save(file, kind)
    except (OSError, ValueError):
        file = io.BytesIO()
        Image.fromarray(pixels[..., :3]).save(file, kind)
    return file.getvalue()


def place(root: Path, parts: tuple[str, ...]) -> Path:
    path = root.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(files, links, others, st.booleans(), st.booleans(), st.booleans())
def test_every_file_is_stored_left_out_or_refused(
    files: dict, links: dict, others: dict, sound: bool, skip_bad: bool, drop: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder, "photos"), Path(folder, "out")
        root.mkdir()
        if sound:
            for number, split in enumerate(("train", "test")):
                for label in ("cat", "10"):
                    files[split, label, "0.png"] = ("PNG", "RGB", number + 10 * (label == "cat"))
        for parts, (kind, mode, seed) in files.items():
            place(root, parts).write_bytes(picture(kind, mode, seed))
        for parts, target in links.items():
            place(root, parts).symlink_to(target)
        for parts, kind in others.items():
            path = place(root, parts)
            if kind == "pipe":
                os.mkfifo(path)
            else:
                path.write_bytes(b"words" if kind == "text" else b"")
        refused = ""
        try:
            prepare_dataset(
                f"folder:{root}",
                out,
                skip_bad=skip_bad,
                drop_duplicates=drop,
                size=4,
                progress=False,
            )
        except UserError as error:
            refused = str(error)
        if refused:
            assert "\n" not in refused
            assert os.listdir(folder) == ["photos"]
            return
        assert sorted(os.listdir(folder)) == ["out", "photos"]
        info = load_info(out)
        for split, count in info.counts.items():
            images, labels = load_split(out, split)
            assert len(images) == len(labels) == count
            assert sum(info.account.counts[split].values()) == count
        visible = [parts for parts in (*files, *links, *others) if not is_hidden(parts)]
        said = sum(each.count for each in info.account.left_out if "hidden" not in each.what)
        if "../cat" in links.values():  # Through which files are seen again.
            assert sum(info.counts.values()) + said >= len(visible)
        else:
            assert sum(info.counts.values()) + said == len(visible)
        above = [parts for parts, target in links.items() if set(target) <= set("./")]
        assert all(map(is_hidden, above))


def is_hidden(parts: tuple[str, ...]) -> bool:
    names = "/".join(parts).split("/")
    return any(name.startswith(".") or name == "Thumbs.db" for name in names)
