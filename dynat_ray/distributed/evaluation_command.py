"""What `python -m dynat_ray.evaluate` does once its options are read."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from dynat_ray.acceleration.switch import cpu_kernels
from dynat_ray.distributed.evaluation_run import evaluate
from dynat_ray.distributed.norms_run import NormsRequest, evaluate_norms
from dynat_ray.errors import UserError
from dynat_ray.evaluation.reference_radius import MULTIPLES, in_units_of
from dynat_ray.evaluation.request import Options, Request, complete
from dynat_ray.evaluation.subject import Subject, load_subject, with_front
from dynat_ray.evaluation.union_of_norms import parse_norms
from dynat_ray.perturb.threat import Threat
from dynat_ray.radius import require_possible
from dynat_ray.report.side_by_side import read_evaluation, side_by_side_table
from dynat_ray.storage.places import fetched, lasting_file, written_at

_REQUESTED = (
    *("data", "split", "norm", "eps", "attacks", "samples", "second_stage", "drafts"),
    *("seed", "batch_size", "out", "distances", "corruptions", "corruptions_from"),
)
_OF_ONE_NORM = (
    *("norm", "eps", "eps_ref", "compare", "surrogate"),
    *("distances", "corruptions", "corruptions_from"),
)


def evaluate_as_asked(options: Namespace) -> Path | str:
    """Evaluates what the options of `dynat_ray.evaluate` name; returns the JSON file, written.

    Raises:
        UserError: What the user can correct.
    """
    with cpu_kernels(options.cpu_kernels), fetched(options.model) as model:
        try:
            subject = load_subject(model, options.arch, options.kwargs)
            subject = with_front(
                replace(subject, name=options.model), options.backward, options.eot
            )
        except UserError as error:
            raise UserError(str(error).replace(model, options.model)) from None
        return written_at(_evaluate(options, subject))


def _evaluate(options: Namespace, subject: Subject) -> Path:
    if options.eps_ref and options.eps is None:
        options.eps = MULTIPLES
    threats = _norms(options)
    request = complete(subject, Options(**{name: getattr(options, name) for name in _REQUESTED}))
    if threats:
        request = _placed(request, subject, options, words=f"{threats} {options.union_only}")
        several = NormsRequest(request, threats, options.union_only)
        return evaluate_norms(subject, several, workers=options.workers, resume=options.resume)
    if options.eps_ref:
        request = in_units_of(options.eps_ref, request)
    require_possible(max(request.eps), request.norm)
    request = _placed(request, subject, options)
    others = [read_evaluation(Path(file)) for file in options.compare]
    surrogate = load_subject(options.surrogate).model if options.surrogate else None
    written = evaluate(
        subject,
        request,
        workers=options.workers,
        resume=options.resume,
        surrogate=surrogate,
        others=others,
    )
    if others:
        print(side_by_side_table([read_evaluation(written), *others]))
    return written


def _placed(request: Request, subject: Subject, options: Namespace, words: str = "") -> Request:
    """Returns the request with a file that lasts."""
    what = f"{subject.name} {replace(request, out=Path())}{words}"
    return replace(request, out=lasting_file(request.out, given=bool(options.out), of=what))


def _norms(options: Namespace) -> tuple[Threat, ...]:
    """Returns what `--norms` asks for, if anything, and sees to it that one of them is complete."""
    if options.norms is None:
        if options.union_only:
            raise UserError("--union-only is of several norms; give --norms")
        return ()
    if options.split != "test":
        raise UserError(f"--split {options.split} is for one norm; leave out --norms or it")
    for name in _OF_ONE_NORM:
        if getattr(options, name):
            raise UserError(f"--{name.replace('_', '-')} is for one norm; leave out --norms or it")
    threats = parse_norms(options.norms)
    options.norm, options.eps = threats[0].norm, str(threats[0].eps)
    return threats
