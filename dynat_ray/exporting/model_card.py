"""The page of a model on the hub: what was measured, how it was made, what that does not say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from dynat_ray.exporting.origin import Origin
from dynat_ray.report.reading import Run
from dynat_ray.report.text import align_columns, attack_names, interval_text, markdown_text

_LIMITS = """## Limits

What was measured is a lower bound on the errors that an attacker finds, on the images and within
the radius above: no certificate. Larger radii, other norms and changes that no norm bounds (noise,
weather, crops) are other questions. Images of other kinds than those of the data set get answers
that mean nothing.
"""


def model_card(origin: Origin, name: str) -> str:
    """Returns the Markdown text of a model's page, with the hub's header.

    Args:
        origin: The model and its run.
        name: Of the model, such as `OWNER/NAME`.
    """
    header = {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm", "adversarial-robustness", "dynat-ray"],
    }
    front = yaml.safe_dump(header, sort_keys=False)
    made = _results(origin.run) + _making(origin.run) if origin.run else _UNKNOWN
    return f"---\n{front}---\n\n# {markdown_text(name)}\n\n{_use(origin, name)}\n{made}{_LIMITS}"


_UNKNOWN = "## Measured\n\nNothing: the model came without the run that trained it.\n\n"


def _use(origin: Origin, name: str) -> str:
    model = origin.model
    ours = type(model.backbone).__module__.startswith("dynat_ray.")
    first = "import dynat_ray, timm  # pip install dynat-ray\n" if ours else "import timm\n"
    mean, std = (
        [round(value, 5) for value in each.flatten().tolist()] for each in (model.mean, model.std)
    )
    height, width = model.size
    return (
        f"A `{model.name}` for {model.num_classes} classes of {model.channels}x{height}x{width} "
        f"images, trained to withstand adversarial changes.\n\n```python\n{first}\n"
        f'model = timm.create_model("hf-hub:{name}", pretrained=True).eval()\n'
        f"# takes (images - {mean}) / {std}, images in [0, 1]\n```\n\n"
        f'`dynat_ray.load_model("hf-hub:{name}")` has the normalisation inside.\n'
    )


def _results(run: Run) -> str:
    table = run.results.get("best", {})
    rows = [["attack", "accuracy in percent", "95 % interval", "test images"]]
    for attack in attack_names({"best": table}):
        entry: Mapping[str, Any] = table[attack]
        accuracy = f"{entry['accuracy']:.1f}"
        rows.append([attack, accuracy, interval_text(entry), f"{entry['samples']:,}"])
    if len(rows) == 1:
        return "## Measured\n\nNothing: the run has not come to its end.\n\n"
    threat = markdown_text(run.facts()["threat"])
    return f"## Measured\n\nThreat: {threat}.\n\n{align_columns(rows, markdown=True)}\n\n"


def _making(run: Run) -> str:
    facts = run.facts() | {
        "time": f"{run.results['seconds']:,.0f} s" if "seconds" in run.results else "",
        "hardware": _hardware(run.environment.get("hardware", {})),
        "command": str(run.environment.get("command", "")),
        "versions": ", ".join(
            f"{key} {value}" for key, value in run.environment.get("versions", {}).items()
        ),
    }
    rows = [["what", "value"]] + [
        [name, value] for name, value in facts.items() if value and name != "threat"
    ]
    return f"## Made by\n\n{align_columns(rows, markdown=True)}\n\n"


def _hardware(hardware: Mapping[str, Any]) -> str:
    processor = hardware.get("processor", "")
    cores = [f"{processor} ({hardware.get('cores')} cores)"] if processor else []
    return ", ".join([*map(str, hardware.get("gpus") or []), *cores])
