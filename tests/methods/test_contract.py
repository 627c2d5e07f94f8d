"""A method that breaks what every method promises is told so by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynat_ray.config import RunConfig
from dynat_ray.data import Batch
from dynat_ray.errors import UserError
from dynat_ray.method_settings.plain import PGDATSettings
from dynat_ray.methods import Method, MethodLoss, Prepared, register, registration
from dynat_ray.methods.contract import ContractError, checked_loss, checked_prepare
from dynat_ray.methods.pgd_at import PGDAT
from dynat_ray.models import Classifier
from dynat_ray.training.agreement import SharedUserError
from dynat_ray.training.session import LocalSession
from dynat_ray.training.trainer import train
from tests.methods.cases import KEYS, make


@dataclass(kw_only=True)
class OwnSettings(PGDATSettings):
    """Settings of a method of a user's."""

    name: str = "own"


class Own(PGDAT):
    """Does what PGD-AT does."""

    settings_class = OwnSettings


class ReturnsTensor(Own):
    def loss(self, network: nn.Module, prepared: Prepared) -> Any:
        return super().loss(network, prepared).loss


class ReturnsNothing(Own):
    def prepare(self, network: nn.Module, batch: Batch, keys: Tensor) -> Any:
        super().prepare(network, batch, keys)


class LosesNoGradient(Own):
    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        result = super().loss(network, prepared)
        return replace(result, loss=result.loss.detach())


class OneLossASample(Own):
    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        losses = self.cross_entropies(network(prepared.adversarial), prepared.batch)
        return MethodLoss(losses)


class RecordsAMean(Own):
    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        result = super().loss(network, prepared)
        return replace(result, record={"adversarial_loss": result.loss.detach()})


class ChangesImages(Own):
    def prepare(self, network: nn.Module, batch: Batch, keys: Tensor) -> Prepared:
        batch.images.clamp_(0.1, 0.9)
        return super().prepare(network, batch, keys)


class ChangesLabels(Own):
    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        prepared.batch.labels[0] = 0
        return super().loss(network, prepared)


class Reassigns(Own):
    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        prepared.weights = torch.ones(len(prepared.batch.labels))  # type: ignore[misc]
        return super().loss(network, prepared)


CASES = [
    (ReturnsTensor, "loss must return a MethodLoss, not Tensor"),
    (ReturnsNothing, "prepare must return a Prepared, not NoneType"),
    (LosesNoGradient, "differentiable"),
    (OneLossASample, r"scalar .* shape \(12,\)"),
    (RecordsAMean, r"'adversarial_loss' of its record has shape \(\), not \(12,\)"),
    (ChangesImages, "prepare changes the images of its batch"),
    (ChangesLabels, "loss changes the labels of its batch"),
    (Reassigns, "loss changes what it was given .*weights"),
]


@pytest.mark.parametrize(("kind", "words"), CASES, ids=[kind.__name__ for kind, _ in CASES])
def test_a_broken_contract_names_the_method_and_what_is_wrong(
    kind: type[Method[Any]], words: str, network: Classifier, batch: Batch
) -> None:
    method = kind(OwnSettings(), make("pgd_at").context)
    with pytest.raises(ContractError, match=f"method 'own' breaks its contract: .*{words}"):
        checked_loss(method, network, checked_prepare(method, network, batch, KEYS))


@pytest.fixture
def registered() -> Iterator[None]:
    """`ReturnsTensor`, under its name."""
    register(ReturnsTensor)
    yield
    del registration._METHODS["own"]


@pytest.mark.usefixtures("registered")
def test_a_run_says_so_in_one_sentence(small_config: RunConfig, tmp_path: Path) -> None:
    config = replace(small_config, method=OwnSettings())
    with pytest.raises(UserError, match="method 'own' breaks its contract") as caught:
        train(config, LocalSession(tmp_path, torch.device("cpu")))
    assert isinstance(caught.value, SharedUserError), "another try would not help"
