"""Where a PGD-AT step spends its time, against what the hardware allows at least."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

from dynat_ray.acceleration.precision import Precision, usable_precision
from dynat_ray.acceleration.twin import twin_of
from dynat_ray.benchmarks.our_loop import our_step, random_batch
from dynat_ray.benchmarks.turns import cpu_threads, seconds_of

# The first word of these that an operation's name contains says what it belongs to.
_OPERATIONS = {
    "winograd": "convolutions, Winograd",
    "normalised_relu": "batch normalisation and ReLU, fused",
    "convolution_backward": "convolutions, backward",
    "convolution": "convolutions, forward",
    "mm": "linear layer",
    "batch_norm": "batch normalisation",
    "_Normalise": "batch normalisation",
    "_foreach": "optimiser",
    "_fused": "optimiser",
    "copy": "casts and copies",
    "threshold": "ReLU",
    "clamp_min": "ReLU",
    "relu": "ReLU",
    "add": "sums",
}
# The same for a GPU's kernels, whose names are spelt in many ways: in small letters.
_KERNELS = {
    "triton_": "fused by the compiler",
    "wgrad": "convolutions, backward",
    "dgrad": "convolutions, backward",
    "fprop": "convolutions, forward",
    "convolve": "convolutions, forward",
    "nhwc": "convolutions, layout",
    "gemm": "linear layer",
    "nvjet": "linear layer",
    "bn_": "batch normalisation",
    "batch_norm": "batch normalisation",
    "multi_tensor": "optimiser",
    "copy": "casts and copies",
    "memcpy": "casts and copies",
    "threshold": "ReLU",
    "clamp_min": "ReLU",
    "cudafunctor_add": "sums",
    "reduce_kernel": "reductions",
}
_OTHERS = "everything else"
_LONGEST = 40
# So large that a device is busy with it for much longer than it takes to start.
_MATRIX = {"cpu": 2048, "cuda": 8192}
_BANDWIDTH_BYTES = {"cpu": 2**28, "cuda": 2**32}


def measure(
    *,
    model: str = "preact_resnet18",
    batch_size: int = 64,
    device: str = "cpu",
    precision: Precision = "bf16",
    compiled: bool = False,
    threads: int = 0,
    **arguments: Any,
) -> dict[str, Any]:
    """Profiles a PGD-10 step on random 32 x 32 images.

    Args:
        model: Architecture.
        batch_size: Images of a step.
        device: Where.
        precision: Of training; float32 on a device without bf16.
        compiled: `torch.compile` it.
        threads: CPU threads; 0: all cores.
        **arguments: Of the architecture.

    Returns:
        `seconds` of a step without the profiler, `by_kind` (seconds in the profiler's run; on a
        GPU their sum is for how long it was busy), `operations` (the longest by name, likewise),
        `flops` and `matrix_rate` (FLOP/s) by the format that is multiplied, `bytes` (read and
        written, by operations that are no matrix products), `bandwidth` (bytes/s),
        `floor_seconds` (products at the matrix rates) and `floor_share` (that by `seconds`).
    """
    precision = usable_precision(precision, torch.device(device))
    with cpu_threads(threads):
        images, labels = random_batch(batch_size, device)
        ours = partial(our_step, model, precision, device=device, **arguments)
        step = ours(compiled=compiled)
        for _ in range(2):
            step(images, labels)
        seconds = min(seconds_of(partial(step, images, labels), device) for _ in range(3))
        times = _times(partial(step, images, labels), device)
        # The same arithmetic, but compiled and replayed steps hide their operations.
        counted = _counted(partial(ours(cuda_graphs=False), images, labels))
        rates = {dtype: _matrix_rate(device, dtype) for dtype in counted.flops}
        bandwidth = _bandwidth(device)
    floor = sum(flops / rates[dtype] for dtype, flops in counted.flops.items())
    return {
        "model": model,
        "batch_size": batch_size,
        "precision": precision,
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "on_gpu": device == "cuda",
        "seconds": seconds,
        "by_kind": _by_kind(times, device),
        "operations": sorted(times.items(), key=lambda item: -item[1])[:_LONGEST],
        "flops": {_name(dtype): flops for dtype, flops in counted.flops.items()},
        "matrix_rate": {_name(dtype): rate for dtype, rate in rates.items()},
        "bytes": counted.bytes,
        "bandwidth": bandwidth,
        "floor_seconds": floor,
        "floor_share": floor / seconds,
    }


def _counted(step: Callable[[], object]) -> _Counter:
    """Returns the operations of a step, after one that prepares."""
    step()
    with _Counter() as counted:
        step()
    return counted


def table(found: Mapping[str, Any]) -> str:
    """Returns what `measure` found as Markdown."""
    total = sum(found["by_kind"].values())
    lines = [
        f"{found['model']}, batch {found['batch_size']}, PGD-10, {found['precision']}: "
        f"{found['seconds'] * 1e3:,.0f} ms a step",
        "",
        "| where | ms | share |",
        "|---|---|---|",
    ]
    for kind, seconds in sorted(found["by_kind"].items(), key=lambda item: -item[1]):
        lines.append(f"| {kind} | {seconds * 1e3:,.1f} | {100 * seconds / total:.1f} % |")
    lines.append("")
    if found["on_gpu"]:
        lines.append(f"the GPU is busy for {100 * total / found['seconds']:.0f} % of a step")
    products = " and ".join(
        f"{flops / 1e9:,.0f} GFLOP in {name} at {found['matrix_rate'][name] / 1e9:,.0f} GFLOP/s"
        for name, flops in sorted(found["flops"].items(), key=lambda item: -item[1])
    )
    lines += [
        f"matrix products: {products} are {found['floor_seconds'] * 1e3:,.0f} ms, "
        f"{100 * found['floor_share']:.0f} % of the step",
        f"all other operations touch {found['bytes'] / 1e9:,.2f} GB; at "
        f"{found['bandwidth'] / 1e9:,.0f} GB/s that is "
        f"{found['bytes'] / found['bandwidth'] * 1e3:,.0f} ms where nothing stays in a cache",
    ]
    return "\n".join(lines) + "\n"


def _times(step: Callable[[], object], device: str) -> dict[str, float]:
    """Returns the seconds of a step's operations by name: on a GPU of its kernels and copies."""
    # Its library writes lines of no use to stderr.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    activities = [ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiled:
        seconds_of(step, device)
    averages = profiled.key_averages()
    if device == "cpu":
        return {event.key: event.self_cpu_time_total / 1e6 for event in averages}
    return {
        event.key: event.self_device_time_total / 1e6
        for event in averages
        if event.device_type != DeviceType.CPU and not event.is_user_annotation
    }


def _by_kind(times: Mapping[str, float], device: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, seconds in times.items():
        words, spelt = (_OPERATIONS, name) if device == "cpu" else (_KERNELS, name.lower())
        kind = next((kind for word, kind in words.items() if word in spelt), _OTHERS)
        found[kind] = found.get(kind, 0.0) + seconds
    return found


class _Counter(TorchDispatchMode):
    """Counts the FLOPs of matrix products, and the bytes that all other operations touch."""

    def __init__(self) -> None:
        super().__init__()
        self.flops: dict[torch.dtype, int] = {}
        self.bytes = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        answer = function(*args, **kwargs)
        count = flop_registry.get(function._overloadpacket)
        if count is not None:
            dtype = _multiplied_in((args, kwargs))
            self.flops[dtype] = self.flops.get(dtype, 0) + count(*args, **kwargs, out_val=answer)
        elif not function.is_view:
            tensors = {
                id(each): each
                for each in tree_iter((args, kwargs, answer))
                if isinstance(each, Tensor)
            }
            self.bytes += sum(each.numel() * each.element_size() for each in tensors.values())
        return answer


def _multiplied_in(arguments: Any) -> torch.dtype:
    """Returns the format of the factors of an operation, whose arguments these are.

    One of them says so, or else it is that of the second tensor: kernels that were transformed may
    be in another format than images.
    """
    leaves = list(tree_iter(arguments))
    named = [each for each in leaves if isinstance(each, torch.dtype)]
    return (named or [each.dtype for each in leaves if isinstance(each, Tensor)][1:])[0]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Returns the FLOP/s of a large matrix product."""
    if device == "cpu" and dtype == torch.float16:
        return _rate_of_float16_convolution()
    size = _MATRIX[device]
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = min(seconds_of(lambda: one @ other, device) for _ in range(8))
    return 2 * size**3 / best


def _rate_of_float16_convolution() -> float:
    """Returns that of a convolution in an attack, as PyTorch's products in float16 sum up in
    float32.

    Its transforms included, so that the true rate is a little higher.
    """
    network = nn.Sequential(nn.Conv2d(256, 256, 3, padding=1, bias=False))
    network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    images = torch.randn(64, 256, 8, 8).bfloat16().contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        convolution = twin_of(network, images)
        with _Counter() as counted:
            convolution(images)
        best = min(seconds_of(partial(convolution, images), "cpu") for _ in range(32))
    return counted.flops[torch.float16] / best


def _bandwidth(device: str) -> float:
    """Returns the bytes per second of a copy, read and written."""
    size = _BANDWIDTH_BYTES[device]
    source = torch.zeros(size // 4, device=device)
    target = torch.empty_like(source)
    best = min(seconds_of(lambda: target.copy_(source), device) for _ in range(8))
    return 2 * size / best
