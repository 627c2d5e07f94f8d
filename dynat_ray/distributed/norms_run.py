"""`evaluate --norms`: an evaluation for each norm, and what is right under all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dynat_ray.data import balanced_subset
from dynat_ray.distributed.evaluation_run import evaluate
from dynat_ray.evaluation.answers import Answers, read_answers
from dynat_ray.evaluation.checks import CHECK_SAMPLES
from dynat_ray.evaluation.exact import best_device
from dynat_ray.evaluation.request import Request
from dynat_ray.evaluation.results import beside, write_json
from dynat_ray.evaluation.samples import load_samples
from dynat_ray.evaluation.subject import Subject
from dynat_ray.evaluation.union_of_norms import (
    entry_of,
    name_of,
    require_joinable,
    union,
    worst_first,
)
from dynat_ray.perturb.threat import Threat
from dynat_ray.report.evaluation_text import norms_table
from dynat_ray.report.norms_page import write_norms_page
from dynat_ray.report.side_by_side import read_evaluation

# What stands for all attacks together, where only the union is asked for.
ALL_ATTACKS = "all attacks"


@dataclass(frozen=True)
class NormsRequest:
    """An evaluation under several norms.

    Attributes:
        base: What to measure; its threat and file are replaced by those of each norm.
        threats: One of each norm.
        union_only: Only what is right under all: images that have fallen leave.
    """

    base: Request
    threats: tuple[Threat, ...]
    union_only: bool = False

    def of(self, threat: Threat, among: Sequence[int] | None = None) -> Request:
        """Returns the evaluation of one norm, of the test images `among`; None: of all."""
        out = beside(self.base.out, f".{threat.norm}.json")
        own = replace(self.base, threats=(threat,), out=out, run_eps=None)
        if among is None:
            return own
        return replace(own, among=tuple(among), samples=0, costly_samples=0)


def evaluate_norms(
    subject: Subject, request: NormsRequest, *, workers: int | None, resume: bool
) -> Path:
    """Runs an evaluation for each norm, the worst first, and joins what they found.

    Args:
        subject: The model.
        request: What to measure.
        workers: As in `evaluate`.
        resume: Go on with what earlier starts have finished.

    Returns:
        The JSON file with `norms`, what each leaves right, and `union`, what is right under all;
        a page is beside it.

    Raises:
        UserError: As in `evaluate`; or whole attacks are needed and one is sampled.
    """
    require_joinable(request.base.attacks)
    ordered = _worst_first(subject, request)
    print(f"the worst first: {', '.join(map(name_of, ordered))}")
    parts, among, seen = [], None, 0
    for threat in ordered:
        own = request.of(threat, among)
        evaluate(subject, own, workers=workers, resume=resume)
        answers = read_answers(beside(own.out, ".parquet"), own.attacks, eps=threat.eps)
        parts.append((threat, own, answers))
        if request.union_only:
            among = _right_under_all(answers)
            seen = seen or len(next(iter(answers.values())).index)
            if not among:
                break
    if request.union_only:
        found = {ALL_ATTACKS: entry_of(len(among or ()), seen)}
    else:
        found = union([answers for _, _, answers in parts])
    content = {
        "norms": [
            {**asdict(threat), "file": own.out.name, "results": _results(own)}
            for threat, own, _ in parts
        ],
        "union": found,
        "union_only": request.union_only,
        "model": subject.name,
        "data": str(request.base.data),
        "attacks": list(request.base.attacks),
        "seed": request.base.seed,
    }
    write_json(request.base.out, content)
    write_norms_page(request.base.out, content)
    print(norms_table(content))
    return request.base.out


def _results(request: Request) -> dict[str, Any]:
    (results,) = read_evaluation(request.out).points.values()
    return results


def _right_under_all(answers: dict[str, Answers]) -> list[int]:
    """Returns which of the images that all attacks saw are right under each of them."""
    known: dict[int, bool] = {}
    least = min(answers.values(), key=lambda found: len(found.index))
    for found in answers.values():
        for index, right in zip(found.index.tolist(), found.right.tolist(), strict=True):
            known[index] = known.get(index, True) and right
    return [index for index in least.index.tolist() if known[index]]


def _worst_first(subject: Subject, request: NormsRequest) -> list[Threat]:
    samples = load_samples(subject, request.of(request.threats[0]))
    if not samples.differentiable:
        return list(request.threats)
    few = balanced_subset(samples.labels.numpy(), CHECK_SAMPLES)
    model = subject.model.to(best_device())
    images, labels = samples.some(few)
    return worst_first(model, images, labels, request.threats, request.base.seed)
