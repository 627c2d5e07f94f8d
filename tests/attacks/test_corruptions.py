from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from dynat_ray.attacks.corruptions import (
    COMMON,
    Corruption,
    get_corruptions,
    require_corruptible,
)
from dynat_ray.errors import UserError
from dynat_ray.evaluation.outcomes import Outcome
from dynat_ray.evaluation.probe_results import summarise_corruptions


def test_names() -> None:
    assert [each.name for each in get_corruptions(["fog-3", "fog-3", "snow-1"])] == [
        "fog-3",
        "snow-1",
    ]
    assert len(get_corruptions(["saturate"])) == 5
    assert {each.kind for each in get_corruptions(["all"])} == set(COMMON)
    for wrong in ("smog", "fog-6", "fog-"):
        with pytest.raises(UserError, match="corruption"):
            get_corruptions([wrong])


@pytest.mark.parametrize("channels", [1, 3])
def test_images_do_not_depend_on_their_shard_or_global_state(channels: int) -> None:
    pytest.importorskip("imagecorruptions")
    images = torch.rand(3, channels, 32, 32, generator=torch.Generator().manual_seed(0))
    for corruption in (Corruption("gaussian_noise", 3), Corruption("glass_blur", 1)):
        whole = corruption.apply(images, 7, np.array([4, 5, 6]))
        np.random.seed(1)  # noqa: NPY002
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        alone = corruption.apply(images[1:2], 7, np.array([5]))
        assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
        assert whole.shape == images.shape
        assert torch.equal(whole[1:2], alone)
        assert not torch.equal(alone, corruption.apply(images[1:2], 8, np.array([5])))
        assert 0 <= float(whole.min()) <= float(whole.max()) <= 1


def test_severity_changes_images_more() -> None:
    pytest.importorskip("imagecorruptions")
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    change = [
        float((Corruption("contrast", s).apply(images, 0, np.arange(4)) - images).abs().mean())
        for s in (1, 5)
    ]
    assert 0 < change[0] < change[1]


def test_what_can_not_be_corrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("imagecorruptions")
    with pytest.raises(UserError, match="at least 32 pixels"):
        require_corruptible(torch.zeros(1, 1, 28, 28))
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(UserError, match=r"pip install 'dynat-ray\[eval\]'"):
        require_corruptible(torch.zeros(1, 3, 32, 32))


def test_summary() -> None:
    def outcome(name: str, right: int) -> Outcome:
        fooled_by = np.array([-1] * right + [0] * (4 - right))
        return Outcome(name, np.arange(4), np.zeros(4), fooled_by)

    found = summarise_corruptions(
        {"fog-1": outcome("fog-1", 4), "fog-5": outcome("fog-5", 2), "snow-1": outcome("snow-1", 1)}
    )
    assert found["accuracy"]["fog"] == {"1": 100, "5": 50, "mean": 75}
    assert found["mean"] == 50
