"""`python -m dynat_ray.evaluate`: robust accuracy of a run or model on a prepared data set."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from dynat_ray import cli
from dynat_ray.acceleration.switch import cpu_kernels
from dynat_ray.attacks.registry import DISTANCES
from dynat_ray.config import Norm
from dynat_ray.distributed.evaluation_run import evaluate
from dynat_ray.distributed.norms_run import NormsRequest, evaluate_norms
from dynat_ray.errors import UserError
from dynat_ray.evaluation.reference_radius import MULTIPLES, in_units_of
from dynat_ray.evaluation.request import Options, Request, complete
from dynat_ray.evaluation.subject import Subject, load_subject, with_front
from dynat_ray.evaluation.union_of_norms import parse_norms
from dynat_ray.object_store import is_address
from dynat_ray.perturb.threat import Threat
from dynat_ray.radius import require_possible
from dynat_ray.report.side_by_side import read_evaluation, side_by_side_table
from dynat_ray.storage.places import fetched, lasting_file, written_at
from dynat_ray.value_types import PositiveInt, check_value

_REQUESTED = (
    *("data", "norm", "eps", "attacks", "samples", "second_stage", "seed", "batch_size"),
    *("out", "distances", "corruptions", "corruptions_from"),
)


_OF_ONE_NORM = (
    *("norm", "eps", "eps_ref", "compare", "surrogate"),
    *("distances", "corruptions", "corruptions_from"),
)


def main(argv: Sequence[str]) -> Path | str:
    """Evaluates what the arguments name; returns the JSON file that was written."""
    options = _parse(argv)
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
    for name in _OF_ONE_NORM:
        if getattr(options, name):
            raise UserError(f"--{name.replace('_', '-')} is for one norm; leave out --norms or it")
    threats = parse_norms(options.norms)
    options.norm, options.eps = threats[0].norm, str(threats[0].eps)
    return threats


def _parse(argv: Sequence[str]) -> Namespace:
    parser = cli.ArgumentParser(prog="python -m dynat_ray.evaluate", description=__doc__)
    add = parser.add_argument
    what = "folder, s3:// address, file of weights, timm name, hf-hub:OWNER/NAME, module:function"
    add("model", metavar="RUN_OR_MODEL", help=what)
    cli.add_architecture_options(parser, required=False)
    add("--data", metavar="DIR", help="prepared data set; default: the run's")
    add(
        "--norms",
        metavar="NORM:EPS,...",
        help="several norms, such as Linf:8/255,L2:0.5,L1:12: accuracy under each and under all",
    )
    add(
        "--union-only",
        action="store_true",
        help="with --norms: only accuracy under all; the worst is first, fallen images leave",
    )
    add("--norm", choices=get_args(Norm), help="default: the run's")
    add("--eps", help="radius, such as 8/255; several, comma-separated, give a curve")
    add(
        "--eps-ref",
        metavar="MODEL",
        help="--eps are multiples (default: 0.2,0.5,1) of the radius at which FGSM leaves this "
        "model half right: Deep Defense's Acc.@eps_ref",
    )
    add("--attacks", help="comma-separated, such as clean,pgd-20,autoattack")
    add("--samples", type=int, help="class-balanced number of test images for every attack")
    add(
        "--second-stage",
        type=int,
        metavar="N",
        help="survivors that FAB and Square see in autoattack-sampled, beside the fiftieth that "
        "falls most easily; 0: all (default: the run's, 200)",
    )
    add("--seed", type=int, help="default: the run's")
    add(
        "--workers",
        type=int,
        help="Ray workers; 1 needs no Ray; default: one per GPU of the cluster, else 1",
    )
    add("--batch-size", type=int, help="images per forward pass")
    add(
        "--cpu-kernels",
        choices=("auto", "off"),
        default="auto",
        help="the C++ kernels for attacks on a CPU: where they are faster, or never",
    )
    add(
        "--distances",
        nargs="?",
        const=",".join(DISTANCES),
        help="how far the nearest adversarial images are: deepfool (rho_2), fab; default: both",
    )
    add(
        "--corruptions",
        nargs="?",
        const="all",
        help="common corruptions, such as fog,snow-3; default: all 15 at 5 severities",
    )
    add(
        "--corruptions-from",
        metavar="DIR",
        help="a published corruption set: CIFAR-10-C's npy files, or KIND/SEVERITY/CLASS folders",
    )
    add(
        "--backward",
        metavar="MODULE:FUNCTION",
        help="of a front without gradient (BPDA): takes the model, returns a differentiable module "
        "of the same logits, whose gradient attacks follow",
    )
    add(
        "--eot",
        type=int,
        default=1,
        metavar="N",
        help="of a front that is random: attacks follow the mean of N answers",
    )
    add("--surrogate", metavar="MODEL", help="another model to try transfer attacks from")
    others = "earlier evaluations of the same images and attacks, to tell the difference to each"
    add("--compare", nargs="+", default=[], metavar="OTHER.json", help=others)
    add("--out", metavar="FILE", help="JSON file; default: evaluation.json in the run's folder")
    add("--resume", action="store_true", help="go on where a stopped evaluation was")
    options = parser.parse_args(argv)
    check_value("--workers", options.workers, PositiveInt | None)
    check_value("--eot", options.eot, PositiveInt)
    if options.out and is_address(options.out):
        raise UserError(
            f"--out is {options.out}, but an evaluation is written to a file; give one, or leave "
            "--out out: the evaluation of a run that is named by its address is kept beside it"
        )
    return options


if __name__ == "__main__":
    cli.run(main)
