"""Models whose front has no gradient, or a random one: what attacks differentiate instead.

After Athalye, Carlini and Wagner ("Obfuscated gradients give a false sense of security", ICML
2018): BPDA, which goes forward through the model and backward through a stand-in, and EOT, which
takes the mean over draws of a model that answers at random.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynat_ray.errors import UserError


class FrontedModel(nn.Module):
    """The model itself without gradients; with them, what attacks are to follow.

    Args:
        inner: Images in [0, 1] to logits.
        stand_in: Differentiable; its gradient is taken in the place of the model's. None: that.
        draws: Answers of which the mean is taken where there are gradients, at least 1.
    """

    def __init__(self, inner: nn.Module, stand_in: nn.Module | None, draws: int = 1) -> None:
        super().__init__()
        self.inner, self.stand_in, self.draws = inner, stand_in, draws

    def extra_repr(self) -> str:
        """Returns what tells it from others with the same parts."""
        return f"draws={self.draws}"

    def forward(self, images: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and images.requires_grad):
            logits: Tensor = self.inner(images)
            return logits
        return torch.stack([self._followed(images) for _ in range(self.draws)]).mean(dim=0)

    def _followed(self, images: Tensor) -> Tensor:
        if self.stand_in is None:
            own: Tensor = self.inner(images)
            return own
        with torch.no_grad():
            value: Tensor = self.inner(images.detach())
        followed: Tensor = self.stand_in(images)
        return value + (followed - followed.detach())


def unfronted(model: nn.Module) -> nn.Module:
    """Returns the model itself."""
    return model.inner if isinstance(model, FrontedModel) else model


def require_stand_in_fits(model: nn.Module, images: Tensor) -> None:
    """Raises `UserError` if a stand-in answers otherwise than the model, or has no gradient.

    Args:
        model: Any; nothing is looked at without a stand-in.
        images: float32 `(N, C, H, W)` in [0, 1]; the first is put through both.
    """
    if not isinstance(model, FrontedModel) or model.stand_in is None:
        return
    one = images[:1].clone().requires_grad_(True)
    with torch.no_grad():
        expected = tuple(model.inner(images[:1]).shape)
    try:
        with torch.enable_grad():
            found = model.stand_in(one)
            shape = tuple(found.shape)
            if shape == expected:
                torch.autograd.grad(found.sum(), one)
    except Exception as error:  # it is the user's own code
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"--backward: its module can't be differentiated: {reason}") from error
    if shape != expected:
        raise UserError(
            f"--backward: its module returns shape {shape} for one image, but the model's logits "
            f"have {expected}"
        )


def needless_draws(model: nn.Module, *, random: bool) -> str:
    """Returns what to say of draws that are all the same; mostly nothing.

    Args:
        model: Any.
        random: Whether it answers at random.
    """
    draws = model.draws if isinstance(model, FrontedModel) else 1
    if draws == 1 or random:
        return ""
    return (
        f"--eot {draws}: the model gives the same answer every time, so that the mean of {draws} "
        "costs as many passes and is no other; leave it out"
    )
