"""A rehearsal at ImageNet's size, on one machine and in less than an hour.

Images are made of small ones, prepared, trained on for an epoch, reported and attacked, each by the
program's own commands and functions; each part says what it found and what it should be.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynat_ray.benchmarks import epoch_memory, large_results, prepare_time
from dynat_ray.benchmarks.made_images import MadeSet, make_images

DEFAULT_IMAGES = 200_000
_EVALUATED, _EVALUATORS = 50_000, 2
_COMPARED = 4000
# Growth of memory that is still called level: what is known of each image is kept, some bytes each.
_LEVEL = 5.0
_WRITE_SECONDS, _WRITE_BYTES = 5.0, 100e6
_REPORT_BYTES = 5e6
_RESUME_SECONDS = 10.0


def working_folder(file: Path) -> Path:
    """Returns where a rehearsal works whose figures go into a JSON file."""
    return file.with_suffix(".rehearsal")


class Rehearsal:
    """The parts, in the order in which they build on each other.

    What they leave lies in a folder, from which each removes what no later one needs; the last one
    removes it.

    Args:
        source: Folder of small images.
        folder: To work in, which is not there yet; with 200,000 images it grows to 12 GB.
        images: How many training images are made.
        rounds: How often `prepare` and what it is compared with are timed.
    """

    def __init__(self, source: Path, folder: Path, *, images: int, rounds: int) -> None:
        self._source = source
        self._folder = folder
        self._count = images
        self._rounds = rounds
        self._images, self._data = folder / "images", folder / "data"
        self._run = folder / "run"

    def images(self) -> dict[str, Any]:
        """Makes the JPEG files.

        Raises:
            UserError: There is nothing to make images of.
        """
        made = MadeSet.of(self._count)
        size = make_images(self._source, self._images, made)
        found = {**vars(made), "bytes": size}
        _say(
            "images",
            f"{made.train:,} for training, {made.test:,} for tests, {made.classes:,} classes, "
            f"{size / 1e9:.2f} GB, {size / (made.train + made.test) / 1e3:.0f} kB each",
        )
        return found

    def prepare(self) -> dict[str, Any]:
        """Prepares them and watches it; times that beside FFCV's writer and plain decoding."""
        found = prepare_time.prepare(self._images, self._data)
        beside = prepare_time.compare(
            self._images, self._folder / "compared", min(_COMPARED, self._count), self._rounds
        )
        for folder in (self._images, self._folder / "compared"):
            shutil.rmtree(folder)
        _say(
            "prepare",
            f"{found['images_per_second']:,.0f} images/s, kept {found['busy_cores']:.2f} of "
            f"{found['cores']} cores busy; {found['idle_cores']:.2f} were idle",
        )
        targets = [_level("prepare", found["memory"])] if found["memory"] else []
        targets.append(
            _Target(
                f"{found['idle_cores']:.2f} of {found['cores']} cores idle",
                "at most 10 % of them",
                found["idle_cores"] <= 0.1 * found["cores"],
            )
        )
        return _told("prepare", found | {"beside": beside, "ratios": beside["ratios"]}, targets)

    def epoch(self) -> dict[str, Any]:
        """Trains an epoch of a tiny network and watches its workers."""
        found = epoch_memory.measure(self._data, self._run)
        _say(
            "epoch",
            f"{found['images']:,} images in {found['seconds']:,.0f} s "
            f"({found['images_per_second']:,.0f} images/s)",
        )
        targets = [
            _level(f"worker {number}", memory)
            for number, memory in enumerate(found["workers"], start=1)
        ]
        return _told("epoch", found, targets)

    def samples(self) -> dict[str, Any]:
        """Writes ImageNet's rows of an epoch."""
        file = self._folder / "rows.parquet"
        found = large_results.write_samples(file, large_results.IMAGENET)
        file.unlink()
        targets = [
            _within(f"{found['rows']:,} rows", found["took"], _WRITE_SECONDS),
            _below("they", found["bytes"], _WRITE_BYTES),
        ]
        return _told("samples", found, targets)

    def report(self) -> dict[str, Any]:
        """Builds the run's report, also as if its epoch had ImageNet's rows."""
        found = large_results.report(self._run, large_results.IMAGENET)
        _say(
            "report",
            f"{found['took']['seconds']:.1f} s, of {found['rows']:,} rows "
            f"{found['large_took']['seconds']:.1f} s",
        )
        targets = [
            _below(f"{found['classes']:,} classes", found["bytes"], _REPORT_BYTES),
            _below(f"of {found['rows']:,} rows", found["large_bytes"], _REPORT_BYTES),
        ]
        return _told("report", found, targets)

    def evaluation(self) -> dict[str, Any]:
        """Goes on with an evaluation of 50,000 images; removes the folder."""
        try:
            found = large_results.resume_evaluation(
                self._run, min(_EVALUATED, self._count), _EVALUATORS
            )
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
        _say(
            "evaluation",
            f"{found['images']:,} images in {found['first']['seconds']:,.0f} s, "
            f"{found['state_bytes'] / 1e6:.1f} MB of state",
        )
        targets = [
            _within("gone on with and ended", found["resumed"], _RESUME_SECONDS),
            _below("its page", found["page_bytes"], _REPORT_BYTES),
        ]
        return _told("evaluation", found, targets)


class _Target:
    """What was found, what it should be, and whether it is."""

    def __init__(self, found: str, wanted: str, met: bool) -> None:
        self.found, self.wanted, self.met = found, wanted, met


def _within(what: str, took: dict[str, float], seconds: float) -> _Target:
    """Other work may take the cores, so that what counts is how long this process computed."""
    return _Target(
        f"{what} in {took['seconds']:.1f} s, of them {took['cpu_seconds']:.1f} s computing",
        f"under {seconds:.0f} s computing",
        took["cpu_seconds"] < seconds,
    )


def _below(what: str, size: float, most: float) -> _Target:
    return _Target(f"{what}: {size / 1e6:.2f} MB", f"under {most / 1e6:.0f} MB", size < most)


def _level(who: str, memory: dict[str, Any]) -> _Target:
    percent = 100 * memory["growth"] / memory["early"]
    return _Target(
        f"{who}: {memory['early'] / 1e6:,.0f} MB, later {memory['late'] / 1e6:,.0f} MB "
        f"({percent:+.1f} %); {memory['mapped'] / 1e6:,.0f} MB of files mapped",
        f"at most +{_LEVEL:.0f} %",
        percent <= _LEVEL,
    )


def _told(part: str, found: dict[str, Any], targets: Sequence[_Target]) -> dict[str, Any]:
    """Prints what was found beside what it should be; returns it with that."""
    for each in targets:
        _say(part, f"{each.found}; target: {each.wanted}: {'met' if each.met else 'MISSED'}")
    return found | {"targets": [vars(each) for each in targets]}


def _say(part: str, words: str) -> None:
    print(f"{part:<10} {words}", flush=True)
