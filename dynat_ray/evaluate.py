"""`python -m dynat_ray.evaluate`: robust accuracy of a run or model on a prepared data set."""

from __future__ import annotations

from argparse import BooleanOptionalAction, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from dynat_ray import cli
from dynat_ray.attack_names import check_attack_names
from dynat_ray.config import Norm
from dynat_ray.errors import UserError
from dynat_ray.object_store import is_address
from dynat_ray.user_path import require_there
from dynat_ray.value_types import PositiveInt, check_value


def main(argv: Sequence[str]) -> Path | str:
    """Evaluates what the arguments name; returns the JSON file that was written."""
    options = _parse(argv)

    # PyTorch takes seconds to import: after the options are known to be right.
    from dynat_ray.distributed.evaluation_command import evaluate_as_asked

    return evaluate_as_asked(options)


def _parse(argv: Sequence[str]) -> Namespace:
    """Returns the options; so many lines, since each option has its own."""
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
    add(
        "--split",
        choices=("test", "train"),
        default="test",
        help="train: the images that it learned from, to see whether training foretold who falls",
    )
    add("--samples", type=int, help="class-balanced number of test images for every attack")
    add(
        "--second-stage",
        type=int,
        metavar="N",
        help="survivors that FAB and Square see in autoattack-sampled, beside the fiftieth that "
        "falls most easily; 0: all (default: the run's, 200)",
    )
    add(
        "--drafts",
        action=BooleanOptionalAction,
        help="FAB and Square look in half precision where the device has it, and float32 confirms "
        "what they find, or (default: the run's, which is no) all is in float32",
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
        const="all",
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
    names = (name.strip() for name in (options.attacks or "").split(","))
    check_attack_names(name for name in names if name)
    named = (
        ("the model", options.model),
        ("--data", options.data),
        ("--surrogate", options.surrogate),
    )
    for what, given in (*named, *(("--compare", file) for file in options.compare)):
        require_there(what, given)
    if options.out and is_address(options.out):
        raise UserError(
            f"--out is {options.out}, but an evaluation is written to a file; give one, or leave "
            "--out out: the evaluation of a run that is named by its address is kept beside it"
        )
    return options


if __name__ == "__main__":
    cli.run(main)
