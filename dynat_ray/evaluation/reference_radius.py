"""The radius that Deep Defense (Yan, Guo and Zhang, NeurIPS 2018) calls eps_ref."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from dynat_ray.config import Norm
from dynat_ray.errors import UserError
from dynat_ray.evaluation.batches import BATCH_SIZE
from dynat_ray.evaluation.exact import best_device
from dynat_ray.evaluation.images import FIRST, Images, read_images
from dynat_ray.evaluation.request import Reference, Request
from dynat_ray.evaluation.robust_accuracy import evaluate_attacks
from dynat_ray.evaluation.samples import load_samples
from dynat_ray.evaluation.subject import load_subject
from dynat_ray.perturb.threat import Threat, largest_distance
from dynat_ray.shown_text import shown_text

# Multiples of it at which that paper reports accuracy.
MULTIPLES = "0.2,0.5,1"
_HALVINGS = 12


def in_units_of(reference: str, request: Request) -> Request:
    """Returns the request with its radii as multiples of a model's, and prints what that is.

    Args:
        reference: Names the model, as in `load_subject`.
        request: Its radii are multiples.

    Raises:
        UserError: There is no such model, or it has no such radius.
    """
    subject = load_subject(reference)
    samples = load_samples(subject, request)
    radius = reference_radius(
        subject.model.to(best_device()),
        samples.images,
        samples.labels,
        norm=request.norm,
        batch_size=request.batch_size,
    )
    print(
        f"eps_ref {radius:.4g}: FGSM leaves half of the images right for {shown_text(subject.name)}"
    )
    threats = tuple(threat.at(radius * threat.eps) for threat in request.threats)
    return replace(request, threats=threats, eps_ref=Reference(subject.name, radius))


def reference_radius(
    model: nn.Module, images: Images, labels: Tensor, *, norm: Norm, batch_size: int = BATCH_SIZE
) -> float:
    """Returns the radius at which the fast gradient method leaves half of the images right.

    Found by bisection to one part in 4,096 of the largest radius. Ours: attacked images stay in
    [0, 1], which the paper does not say.

    Args:
        model: Images in [0, 1] to logits.
        images: All.
        labels: int64 `(N,)`.
        norm: `Linf`, `L2` or `L1`.
        batch_size: Images per forward pass.

    Raises:
        UserError: No radius does: too many images are wrong unattacked, or too few are fooled.
    """

    def accuracy(eps: float) -> float:
        found = evaluate_attacks(
            model, images, labels, ["fgsm"], Threat(norm, eps), batch_size=batch_size
        )
        return float(found["fgsm"].correct.mean())

    # No two images in [0, 1] are farther apart.
    low, high = 0.0, largest_distance(norm, read_images(images, FIRST).numel())
    if accuracy(low) < 0.5:
        raise UserError("--eps-ref: more than half of the images are wrong without an attack")
    if accuracy(high) > 0.5:
        raise UserError(
            f"--eps-ref: FGSM leaves more than half of the images right at eps {high:g}"
        )
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if accuracy(middle) >= 0.5 else (low, middle)
    return (low + high) / 2
