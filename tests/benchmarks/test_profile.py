"""What the profile counts."""

from __future__ import annotations

import pytest
from torch import nn

from dynat_ray.acceleration.switch import cpu_kernels_exist
from dynat_ray.benchmarks import profile

# Width and side of the later stages of `preact_resnet10`.
_STAGES = ((128, 16), (256, 8), (512, 4))


def test_a_pgd_10_step_is_23_forward_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten passes forwards and back to the images, and one with weight gradients.

    Where convolutions go by Winograd's algorithm, a quarter of the products is left: in attacks,
    and in the training pass where there are enough tiles, in the first stage here. With a stride,
    which it takes in attacks and from 128 channels on, 81 of 144.
    """
    # How fast this machine multiplies is not what is asked here.
    monkeypatch.setitem(profile._MATRIX, "cpu", 256)
    found = profile.measure(model="preact_resnet10", batch_size=2, precision="float32", threads=1)
    stem = 3 * 64 * 9 * 32 * 32
    first = 2 * 64 * 64 * 9 * 32 * 32
    strided = sum((width // 2) * width * (9 + 1) * side**2 for width, side in _STAGES)
    short = first + sum(width * width * 9 * side**2 for width, side in _STAGES)
    forward = stem + short + strided + 512 * 10
    winograd = _is_by_winograd(nn.Conv2d(64, 64, 3, padding=1))
    wide = sum(width // 2 * width * 9 * side**2 for width, side in _STAGES if width >= 256)
    spared = 3 / 4 * (20 * short + 3 * first) + (1 - 81 / 144) * 20 * wide
    products = 23 * forward - (spared if winograd else 0)
    # Two images, two operations a product. The training pass needs no gradient of the images.
    assert found["flops"] == {"float32": pytest.approx(2 * 2 * products, rel=0.02)}
    assert found["floor_share"] == pytest.approx(
        found["flops"]["float32"] / found["matrix_rate"]["float32"] / found["seconds"]
    )
    kinds = found["by_kind"]
    assert kinds["convolutions, forward"] > 0
    assert kinds["convolutions, backward"] > 0
    assert (kinds.get("convolutions, Winograd", 0) > 0) == winograd
    assert sum(kinds.values()) < 10 * found["seconds"]
    shown = profile.table(found)
    assert "convolutions, backward" in shown
    assert f"{100 * found['floor_share']:.0f} % of the step" in shown


def _is_by_winograd(convolution: nn.Module) -> bool:
    if not cpu_kernels_exist():
        return False
    from dynat_ray.acceleration import cpu

    return cpu.fixed_convolution(convolution) is not None


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("triton_poi_fused_convolution_relu_2", "fused by the compiler"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_nhwckrsc_nhwc", "convolutions, forward"),
        ("sm90_xmma_dgrad_implicit_gemm_bf16bf16_nhwckrsc_nhwc", "convolutions, backward"),
        ("ImplicitGemmConvolution...Conv2dWgradOutputGradientTile", "convolutions, backward"),
        ("void precomputed_convolve_sgemm<__nv_bfloat16, 128>", "convolutions, forward"),
        ("void cudnn::engines_precompiled::nhwcToNchwKernel<>", "convolutions, layout"),
        ("elementwise_kernel<CUDAFunctor_add<float> >", "sums"),
        ("Memcpy DtoD (Device -> Device)", "casts and copies"),
        ("Memset (Unknown)", "everything else"),
    ],
)
def test_kernels_of_a_gpu_have_a_kind(kernel: str, kind: str) -> None:
    assert profile._by_kind({kernel: 1.0}, "cuda") == {kind: 1.0}
