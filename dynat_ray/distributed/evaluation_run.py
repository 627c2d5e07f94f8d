"""A whole evaluation, from request to files: accuracies, checks, examples, JSON, page."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from dynat_ray.acceleration.twin import cpu_kernels_status
from dynat_ray.attacks.drafts import drafts_status
from dynat_ray.attacks.registry import MARGIN, get_attacks, get_probe
from dynat_ray.data import balanced_subset
from dynat_ray.distributed.evaluator import Evaluated, Workers, default_workers, evaluated
from dynat_ray.errors import UserError
from dynat_ray.evaluation.attack_checks import check_attacks, check_outcomes
from dynat_ray.evaluation.checks import CHECK_SAMPLES, Check
from dynat_ray.evaluation.corruption_files import measure_corruption_files, read_corruption_set
from dynat_ray.evaluation.exact import best_device
from dynat_ray.evaluation.examples import Example, find_examples
from dynat_ray.evaluation.fronted import needless_draws
from dynat_ray.evaluation.identity import Identity, checksum_answers, identify
from dynat_ray.evaluation.inputs import count_classes
from dynat_ray.evaluation.model_checks import check_model
from dynat_ray.evaluation.plan import EvaluationPlan
from dynat_ray.evaluation.probe_results import summarise
from dynat_ray.evaluation.request import IMAGES_OF, Request
from dynat_ray.evaluation.results import (
    beside,
    named_after,
    results_of,
    write_json,
    write_samples,
    write_text,
)
from dynat_ray.evaluation.robustbench import robustbench_entry
from dynat_ray.evaluation.samples import Samples, load_samples
from dynat_ray.evaluation.subject import Subject, require_fit
from dynat_ray.evaluation.transfer import check_transfer
from dynat_ray.interrupt import going_on
from dynat_ray.radius import format_radius
from dynat_ray.report.difference_rows import (
    DifferenceRow,
    difference_sentences,
    differences_csv,
    differences_table,
)
from dynat_ray.report.evaluation_differences import evaluation_differences, require_comparable
from dynat_ray.report.evaluation_page import write_evaluation_page
from dynat_ray.report.evaluation_text import accuracy_table, probe_lines
from dynat_ray.report.fall_radii_page import write_fall_radii
from dynat_ray.report.fragile import last_fragility
from dynat_ray.report.reading import read_run
from dynat_ray.report.side_by_side import Evaluation
from dynat_ray.shown_text import shown_text
from dynat_ray.storage.lease import lease

_STATE = ".state.jsonl"


def evaluate(
    subject: Subject,
    request: Request,
    *,
    workers: int | None,
    resume: bool,
    surrogate: nn.Module | None = None,
    others: Sequence[Evaluation] = (),
) -> Path:
    """Runs an evaluation; writes JSON, per-sample parquet, a page and, while it runs, its state.

    Args:
        subject: The model.
        request: What to measure.
        workers: 1: in this process; more: Ray workers; None: a Ray worker for each GPU of the
            cluster that `RAY_ADDRESS` names; else of this machine, if it has several; else 1.
        resume: Go on with the state file beside the output.
        surrogate: Another model whose adversarial images are tried; None: a substitute's.
        others: Evaluations to compare this one with.

    Returns:
        The JSON file.

    Raises:
        UserError: What the user can correct; `others` are of other images, radii or attacks;
            another process writes the same evaluation.
    """
    with lease(request.out, "evaluation", wait=resume), going_on("--resume"):
        return _evaluate(subject, request, workers, resume, surrogate, others)


def _evaluate(
    subject: Subject,
    request: Request,
    workers: int | None,
    resume: bool,
    surrogate: nn.Module | None,
    others: Sequence[Evaluation],
) -> Path:
    started = time.monotonic()
    run = _EvaluationRun(subject, request, surrogate)
    require_comparable(run.settings(), run.samples.data.checksum, others)
    checks = run.check_model()
    identity = run.identify(checks)
    who = Workers(workers, on_ray=workers > 1) if workers else default_workers()
    print(run.header(who))
    with evaluated(
        run.model,
        run.samples.images,
        run.samples.labels,
        run.plan,
        identity=identity,
        state_path=beside(request.out, _STATE),
        resume=resume,
        workers=who.ready(),
    ) as found:
        checks += run.check_found(found)
        examples = run.find_examples(found)
        content = {
            **run.results(found),
            "cpu_kernels": cpu_kernels_status(best_device()),
            "drafts": run.drafts(),
            "checks": [check.entry() for check in checks],
            "checksums": {"model": identity["model"], "data": identity["data"]},
            "seconds": round(time.monotonic() - started + found.seconds_before, 1),
            "outcomes": beside(request.out, ".parquet").name,
        }
        run.write_samples(found)
        if MARGIN.name in found.probes:
            content |= run.write_fall_radii(content, found)
        differences = evaluation_differences(Evaluation(request.out, content), others)
        run.write(content, found, checks, differences)
        write_evaluation_page(request.out, examples, others, differences)
    _print_findings(content, found, checks, differences)
    return request.out


def _print_findings(
    content: Mapping[str, Any],
    found: Evaluated,
    checks: Sequence[Check],
    differences: Sequence[DifferenceRow],
) -> None:
    print(accuracy_table(found.attacks))
    for line in probe_lines(content):
        print(f"  {line}")
    for check in checks:
        if check.flagged:
            print(f"  check '{check.name}': {check.sentence}")
    if differences:
        print("\n".join([differences_table(differences), *difference_sentences(differences)]))


class _EvaluationRun:
    """What an evaluation command works with, and its steps beside the shards.

    Attributes:
        samples: The test images.
        plan: What is measured on them.
        model: On the device of this process.
    """

    def __init__(self, subject: Subject, request: Request, surrogate: nn.Module | None) -> None:
        self._subject = subject
        self._request = request
        self._surrogate = surrogate
        self.samples = load_samples(subject, request)
        if surrogate is not None:
            _require_surrogate_fits(surrogate, self.samples)
        labels = self.samples.labels.numpy()
        self.plan = EvaluationPlan(
            samples=len(labels),
            classes=self.samples.classes,
            attacks=get_attacks(request.attacks),
            threats=request.threats,
            costly_positions=balanced_subset(labels, request.costly_samples),
            seed=request.seed,
            batch_size=request.batch_size,
            second_stage=request.second_stage,
            drafts=request.drafts,
            probes=[get_probe(name) for name in _probes(request)],
        )
        self.model = subject.model.to(best_device())
        folder, classes = request.corruptions_from, self.samples.data.classes
        self._corrupted = [] if folder is None else read_corruption_set(folder, classes)
        # Twice as many as are attacked, since those that are wrong without attack are left out.
        few = balanced_subset(labels, 2 * CHECK_SAMPLES)
        self._checked = self.samples.some(few)

    def header(self, workers: Workers) -> str:
        """Returns what is about to be done, in a line."""
        return shown_text(
            f"{self._subject.name} on {self.samples.data.name}: {self.plan.samples} "
            f"{IMAGES_OF[self._request.split]}, "
            f"{self._request.norm}, {', '.join(self._request.attacks)}, "
            f"{workers.count} worker{'s' * (workers.count > 1)}"
        )

    def check_model(self) -> list[Check]:
        """Checks what attacks will rest on."""
        return check_model(
            self.model,
            *self._checked,
            classes=self.samples.data.num_classes,
            differentiable=self.samples.differentiable,
            batch_size=self.plan.batch_size,
        )

    def identify(self, checks: Sequence[Check]) -> Identity:
        """Returns what must be equal when the evaluation goes on, given the model's checks."""
        random = any(check.name == "randomness" and check.flagged for check in checks)
        if words := needless_draws(self.model, random=random):
            print(words)
        images, _ = self._checked
        answers = ""
        if not random:
            answers = checksum_answers(self.model, images, batch_size=self.plan.batch_size)
        return identify(self.model, self.samples.data, self.settings(), answers=answers)

    def drafts(self) -> str:
        """Returns whether stages looked with drafts, in a few words."""
        if not self._request.drafts:
            return "off"
        return drafts_status(self.model, self._request.norm, best_device())

    def settings(self) -> dict[str, Any]:
        """Returns what outcomes follow from beside model and data set, as JSON values."""
        settings = self.plan.settings() | {"split": self._request.split}
        if self._request.among is not None:
            settings["among"] = self.samples.indices.tolist()
        return settings

    def check_found(self, found: Evaluated) -> list[Check]:
        """Checks what the attacks did, with attacks of its own where AutoAttack was asked for."""
        checks: list[Check] = []
        for threat, outcomes in found.attacks.items():
            several = len(found.attacks) > 1
            radius = format_radius(threat.eps, threat.norm) if several else ""
            checks += check_outcomes(outcomes, radius)
        largest, plan = self.plan.threats[-1], self.plan
        costly = any(attack.costly for attack in plan.attacks)
        if largest.eps > 0 and costly and self.samples.differentiable:
            at: dict[str, Any] = {"seed": plan.seed, "batch_size": plan.batch_size}
            checks += check_attacks(self.model, *self._checked, largest, **at)
            checks += check_transfer(
                self.model, *self._checked, largest, surrogate=self._surrogate, **at
            )
        return checks

    def find_examples(self, found: Evaluated) -> list[Example]:
        """Returns pictures of images that some attack fooled at the radius that is shown."""
        threat, samples = self._request.shown, self.samples
        if threat.eps == 0 or not samples.differentiable:
            return []
        fooled = [o.positions[o.fooled_by >= 0] for o in found.attacks[threat].values()]
        return find_examples(
            self.model,
            samples.images,
            samples.labels,
            samples.indices,
            np.unique(np.concatenate(fooled)),
            threat,
            seed=self.plan.seed,
            batch_size=self.plan.batch_size,
        )

    def results(self, found: Evaluated) -> dict[str, Any]:
        """Returns what was measured, of what and how, as JSON values."""
        request, eps = self._request, self._request.eps
        return {
            **results_of(found.attacks),
            **summarise(found.probes, self.samples.images, request.norm),
            **self._corruption_files(),
            "model": self._subject.name,
            "data": str(request.data),
            **self.settings(),
            "eps": eps[0] if len(eps) == 1 else list(eps),
            "shown_eps": request.shown.eps,
            "eps_ref": asdict(request.eps_ref) if request.eps_ref else None,
            "classes": self.samples.classes,
            "class_names": self.samples.data.classes,
        }

    def _corruption_files(self) -> dict[str, Any]:
        """Returns accuracy on a published corruption set, where one is asked for."""
        if not self._corrupted:
            return {}
        measured = measure_corruption_files(
            self.model,
            self._corrupted,
            tuple(self.samples.first.shape[1:]),
            samples=self._request.samples,
            batch_size=self.plan.batch_size,
        )
        return {"corruptions": {**measured, "source": str(self._request.corruptions_from)}}

    def write_samples(self, found: Evaluated) -> None:
        """Writes what became of every image."""
        write_samples(
            beside(self._request.out, ".parquet"),
            found.attacks,
            found.probes,
            self.samples.indices,
            self.samples.labels.numpy(),
        )

    def write_fall_radii(self, content: Mapping[str, Any], found: Evaluated) -> dict[str, Any]:
        """Writes where each image of a curve falls; returns what the JSON file has of it."""
        request, foretold = self._request, None
        if request.split == "train" and self._subject.run is not None:
            foretold = last_fragility(read_run(self._subject.run))
        margins = found.probes[MARGIN.name]
        return write_fall_radii(
            request.out, content, found.attacks, margins, self.samples, foretold
        )

    def write(
        self,
        content: Mapping[str, Any],
        found: Evaluated,
        checks: Sequence[Check],
        differences: Sequence[DifferenceRow],
    ) -> None:
        """Writes all other files but the page."""
        out = self._request.out
        compared = {"differences": [row.cells() for row in differences]} if differences else {}
        write_json(out, {**content, **compared})
        if differences:
            write_text(named_after(out, "differences.csv"), differences_csv(differences))
        entry = robustbench_entry(found.attacks, self._subject, self.samples.data, checks)
        if entry is not None and self._request.split == "test":
            write_json(named_after(out, "robustbench.json"), entry)


def _probes(request: Request) -> tuple[str, ...]:
    """Returns what is measured beside attacks; of a curve's images also how sure the model is."""
    margin = (MARGIN.name,) if len(request.threats) > 1 else ()
    return request.distances + request.corruptions + margin


def _require_surrogate_fits(surrogate: nn.Module, samples: Samples) -> None:
    try:
        require_fit(surrogate, samples.data, samples.first)
        count_classes(surrogate, samples.first, samples.labels)
    except UserError as error:
        raise UserError(f"--surrogate: {error}") from None
