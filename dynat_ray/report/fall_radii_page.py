"""Where each image falls on a curve: a table of them, and a page by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dynat_ray.attacks.registry import CLEAN as WITHOUT_ATTACK
from dynat_ray.evaluation.fall_radii import FallRadii, fall_radii, rank_correlation
from dynat_ray.evaluation.images import Images, read_images
from dynat_ray.evaluation.outcomes import AttackOutcomes, Outcome
from dynat_ray.evaluation.request import IMAGES_OF
from dynat_ray.evaluation.results import beside, write_table
from dynat_ray.evaluation.samples import Samples
from dynat_ray.radius import format_radius
from dynat_ray.report.drawing import CLEAN, NEUTRAL, draw, radius_unit
from dynat_ray.report.fragile import Fragility, picture
from dynat_ray.report.page import write_page
from dynat_ray.report.side_by_side import strongest
from dynat_ray.shown_text import shown_text

# Of each class so many images at either end, and so many classes: those that fall first.
_EACH = 4
_MOST_CLASSES = 20


def write_fall_radii(
    out: Path,
    content: Mapping[str, Any],
    outcomes: AttackOutcomes,
    margins: Outcome,
    samples: Samples,
    foretold: Fragility | None = None,
) -> dict[str, Any]:
    """Writes `NAME.images.parquet` and `NAME.images.html` beside an evaluation's JSON file.

    Both are of the attack that says most at the largest radius.

    Args:
        out: The JSON file.
        content: What it holds.
        outcomes: Of all radii of the curve.
        margins: What the probe `margin` found.
        samples: All evaluated images.
        foretold: How fragile training held them to be, where they are training images.

    Returns:
        What the JSON file has of it, as `images`; nothing where there was no attack.

    Raises:
        UserError: They can't be written.
    """
    largest = outcomes[max(outcomes, key=lambda threat: threat.eps)]
    attack = strongest({name: outcome.entry() for name, outcome in largest.items()})
    if attack == WITHOUT_ATTACK:
        return {}
    found = fall_radii(outcomes, margins, attack, samples.indices, samples.labels.numpy())
    table, right = beside(out, ".images.parquet"), found.right_unattacked
    correlation = rank_correlation(found.margin[right], found.radius[right])
    write_table(table, found.table())
    entry = {"attack": attack, "file": table.name, "margin_correlation": correlation}
    fragility = _fragility(found, foretold)
    if fragility:
        entry["fragility_correlation"] = fragility
    page = _page(content, found, samples.images)
    page |= {"correlation": correlation, "fragility": fragility}
    write_page(beside(out, ".images.html"), "fall_radii.html", page)
    return {"images": entry}


def _fragility(found: FallRadii, foretold: Fragility | None) -> dict[str, Any] | None:
    """Returns how well training foretold which of the images that are right unattacked fall."""
    if foretold is None:
        return None
    right = np.flatnonzero(found.right_unattacked)
    known, ranks = foretold.ranks_of(found.index[right])
    correlation = rank_correlation(ranks.astype(np.float64), found.radius[right[known]])
    if correlation is None:
        return None
    return {**correlation, "epoch": foretold.epoch, "ranked_by": foretold.words}


def _page(content: Mapping[str, Any], found: FallRadii, images: Images) -> dict[str, Any]:
    names = [shown_text(name, 60) for name in content.get("class_names") or []]
    norm, right = str(content["norm"]), found.right_unattacked
    classes = sorted(
        np.unique(found.label[right]).tolist(),
        key=lambda label: float(np.mean(_ranks(found)[right & (found.label == label)])),
    )
    return {
        "name": content["model"],
        "facts": {"data": content["data"], "attack": found.attack, "seed": str(content["seed"])},
        "images_of": IMAGES_OF[content.get("split", "test")],
        "norm": norm,
        "images": len(found.index),
        "wrong": int((~right).sum()),
        "never": int(np.isinf(found.radius).sum()),
        "largest": format_radius(max(content["eps"]), norm),
        "figure": _scatter(found, norm, list(content["eps"])) if right.any() else None,
        "classes": [_class(found, images, label, names, norm) for label in classes[:_MOST_CLASSES]],
        "left_out": max(0, len(classes) - _MOST_CLASSES),
    }


def _ranks(found: FallRadii) -> NDArray[np.int64]:
    """Returns each image's place in robustness: by radius, then by margin."""
    ranks = np.empty(len(found.radius), dtype=np.int64)
    ranks[np.lexsort((found.margin, found.radius))] = np.arange(len(found.radius))
    return ranks


def _class(
    found: FallRadii, images: Images, label: int, names: Sequence[str], norm: str
) -> dict[str, Any]:
    own = np.flatnonzero(found.right_unattacked & (found.label == label))
    ordered = own[np.argsort(_ranks(found)[own])]
    least, most = ordered[:_EACH], ordered[_EACH:][::-1][:_EACH]

    places = found.positions[np.concatenate([least, most])]
    read = (read_images(images, places) * 255).round().clamp(0, 255).byte().contiguous()
    pixels = dict(zip(places.tolist(), read.numpy(), strict=True))

    def shown(places: NDArray[np.int64]) -> list[dict[str, Any]]:
        return [
            {
                "index": int(found.index[place]),
                "margin": float(found.margin[place]),
                "radius": format_radius(float(found.radius[place]), norm)
                if np.isfinite(found.radius[place])
                else None,
                "picture": picture(pixels[int(found.positions[place])]),
            }
            for place in places.tolist()
        ]

    return {
        "name": names[label] if label < len(names) else f"class {label}",
        "images": int((found.label == label).sum()),
        "right": len(own),
        "least": shown(least),
        "most": shown(most),
    }


def _scatter(found: FallRadii, norm: str, radii: list[float]) -> str:
    """Returns how the clean margin of images spreads by the radius at which they fall."""
    scale, unit = radius_unit(norm)
    steps = [*sorted(radius for radius in radii if radius > 0), np.inf]
    groups = [found.margin[found.right_unattacked & (found.radius == step)] for step in steps]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        kept = [place for place, group in enumerate(groups) if len(group)]
        axes.boxplot(
            [groups[place] for place in kept],
            positions=kept,
            widths=0.6,
            showfliers=False,
            medianprops={"color": CLEAN, "linewidth": 2},
        )
        words = [f"{step * scale:.3g}" if np.isfinite(step) else "at none" for step in steps]
        counts = [f"{word}\n{len(g):,}" for word, g in zip(words, groups, strict=True)]
        axes.set_xticks(range(len(steps)), counts)
        axes.set_xlabel(f"{norm} eps at which images fall{unit}, and how many")
        axes.set_ylabel("margin without attack", color=NEUTRAL)
        axes.set_xlim(-0.7, len(steps) - 0.3)
        axes.set_ylim(-0.02, 1.02)

    return draw(8, 3.4, paint)
