from __future__ import annotations

import warnings

import pytest
import torch

from dynat_ray.config import RunConfig
from dynat_ray.data import load_info
from dynat_ray.errors import UserError
from dynat_ray.training.setup import check_run


def test_checking_a_run_leaves_gpus_alone(
    small_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a GPU was asked for its random state")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", fail)
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_run(small_config, load_info(small_config.data.path))
    assert torch.equal(torch.get_rng_state(), before)


def test_published_weights_and_a_saved_model_exclude_each_other(small_config: RunConfig) -> None:
    small_config.model.pretrained = True
    small_config.model.init_from = "x"
    with pytest.raises(UserError, match="exclude each other"):
        check_run(small_config, load_info(small_config.data.path))
