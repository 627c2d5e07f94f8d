"""Validates weights that are trained elsewhere, on a network and a loader of its own."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace

import torch
from torch import Tensor

from dynat_ray.acceleration.switch import cpu_kernels
from dynat_ray.config import RunConfig
from dynat_ray.data import load_info, load_labels
from dynat_ray.training.setup import build_network, build_validation_loader, split_training
from dynat_ray.training.validation import ValidationAccuracy, validate


class Validator:
    """The validation split of a run, and a network to try weights on.

    Args:
        config: The run.
        device: Where both are.
    """

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        info = load_info(config.data.path)
        labels = load_labels(config.data.path, "train").numpy()
        _, held_out = split_training(config, labels)
        # The weights are brought; those that training starts from may lie far away.
        model = replace(config.model, pretrained=False, init_from="")
        network = build_network(replace(config, model=model), info)
        order = torch.channels_last if config.train.channels_last else torch.contiguous_format
        self._network = network.to(device=device, memory_format=order)  # type: ignore[call-overload]
        self._loader = build_validation_loader(config, held_out, device=device)
        self._config = config

    def validate(self, weights: dict[str, Tensor]) -> ValidationAccuracy:
        """Returns what `weights` reach on the validation split.

        Args:
            weights: State of a network of the run.
        """
        self._network.load_state_dict(weights)
        with cpu_kernels(self._config.train.cpu_kernels):
            return validate(self._network, self._loader, self._config)


class AtOnce:
    """Validates in this process, before anything else goes on."""

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self._validator = Validator(config, device)

    def begin(self, weights: dict[str, Tensor]) -> Future[ValidationAccuracy]:
        """Validates `weights`."""
        done = Future[ValidationAccuracy]()
        done.set_result(self._validator.validate(weights))
        return done

    def problem(self) -> str:
        """Nothing keeps it from validating."""
        return ""
