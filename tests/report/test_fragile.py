"""Which training images count as the most fragile, and their pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from dynat_ray.data import load_split
from dynat_ray.report.fragile import enlarged, find_fragile, last_fragility, rank_by_fragility
from dynat_ray.report.reading import read_run
from tests.report.conftest import MakeRun


def test_the_methods_own_measure_ranks_first() -> None:
    values = np.array([0.2, 0.9, 0.5], dtype=np.float32)
    samples = {"fragility": values, "adversarial_gap": -values, "confidence_gap": values}
    samples["eps"] = np.full(3, 0.1)
    assert rank_by_fragility(samples)[0].tolist() == [1, 2, 0]
    del samples["fragility"]
    assert rank_by_fragility(samples)[0].tolist() == [0, 2, 1]
    del samples["adversarial_gap"]
    assert rank_by_fragility(samples)[0].tolist() == [0, 2, 1]
    assert rank_by_fragility({})[0].tolist() == []


def test_samples_left_unattacked_since_they_are_wrong_come_first() -> None:
    samples = {
        "eps": np.array([0.1, 0.0, 0.1, 0.0]),
        "fragility": np.array([0.2, 0.0, 0.7, 0.0]),
        "adversarial_gap": np.array([0.9, 0.1, -0.5, 0.6]),
    }
    order, words = rank_by_fragility(samples)
    assert order.tolist() == [3, 1, 2, 0]
    assert words.startswith("wrong without an attack first")


def test_pictures_are_those_of_the_samples(make_run: MakeRun, digits: Path) -> None:
    run = read_run(make_run())
    samples = run.last_samples()[1]
    stale = run.folder / "fragile" / "99_image_0.png"
    stale.parent.mkdir()
    stale.touch()
    found, _ = find_fragile(run, samples, count=5)
    stored, labels = load_split(digits, "train")
    expected = np.argsort(-samples["fragility"], kind="stable")[:5]
    assert [image.index for image in found] == expected.tolist()
    assert all(image.picture.startswith("data:image/png;base64,") for image in found)
    files = sorted((run.folder / "fragile").iterdir())
    assert [file.name for file in files] == [
        f"{place:02}_image_{image.index}.png" for place, image in enumerate(found, start=1)
    ]
    for image, file in zip(found, files, strict=True):
        assert image.label == labels[image.index]
        assert image.budget == samples["eps"][image.index]
        # Every pixel of the 8x8 image became a square of twelve by twelve.
        pixels = np.asarray(Image.open(file))
        assert pixels.shape == (96, 96)
        np.testing.assert_array_equal(pixels[6::12, 6::12], stored[image.index, 0].numpy())


def test_without_the_data_set_there_are_no_pictures(make_run: MakeRun, tmp_path: Path) -> None:
    run = read_run(make_run(data=tmp_path / "gone"))
    found, _ = find_fragile(run, run.last_samples()[1])
    assert len(found) == 24
    assert {image.picture for image in found} == {""}
    assert not (run.folder / "fragile").exists()


def test_rgb_and_large_images() -> None:
    colours = np.zeros((3, 300, 600), dtype=np.uint8)
    colours[2] = 255
    picture = enlarged(colours)
    assert (picture.mode, picture.size) == ("RGB", (224, 112))
    assert picture.getpixel((5, 5)) == (0, 0, 255)
    assert enlarged(np.zeros((1, 28, 28), dtype=np.uint8)).size == (112, 112)


def test_ranks_of_images_by_their_place_in_the_split(make_run: MakeRun) -> None:
    run = read_run(make_run())
    epoch, samples = run.last_samples()
    found = last_fragility(run)
    assert found is not None
    assert found.epoch == epoch + 1
    most = int(samples["index"][np.argmax(samples["fragility"])])
    known, ranks = found.ranks_of(np.array([10**6, most, -1]))
    assert known.tolist() == [False, True, False]
    assert ranks.tolist() == [0]
