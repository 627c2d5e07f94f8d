"""How much memory each loop's training step needs at its peak."""

from __future__ import annotations

import torch

from dynat_ray.benchmarks.loops import LOOPS, make_step
from dynat_ray.benchmarks.our_loop import classifier, random_batch, sgd
from dynat_ray.benchmarks.reference_loops import AttackSettings
from dynat_ray.benchmarks.turns import Progress, cpu_threads, in_environment
from dynat_ray.hardware import peak_memory_bytes

# More attack steps need as much; the second one is what a GPU replays.
_ATTACK = AttackSettings(steps=2)
_STEPS = 2  # momentum is there from the second on


def measure(
    *, batch_size: int, device: str, threads: int = 0, compiled: bool = False, width: int = 64
) -> dict[str, int]:
    """Returns the peak in bytes of each loop's step of `preact_resnet18`, 32 x 32 images.

    Each has a process of its own, of which a GPU's memory counts tensors and a CPU's everything,
    libraries too.

    Args:
        batch_size: Images of a step.
        device: Where.
        threads: CPU threads; 0: all cores.
        compiled: `torch.compile` ours.
        width: Channels of the network's first stage.
    """
    progress, peaks = Progress("memory", len(LOOPS)), {}
    for name in LOOPS:
        peaks[name] = in_environment({}, _peak, name, batch_size, device, threads, compiled, width)
        progress.done(f"{name:<20} {peaks[name] / 2**30:6.2f} GiB")
    return peaks


def _peak(name: str, batch_size: int, device: str, threads: int, compiled: bool, width: int) -> int:
    with cpu_threads(threads):
        images, labels = random_batch(batch_size, device)
        model = classifier(seed=0, shape=(3, 32, 32), base_width=width).to(device)
        step = make_step(name, model, sgd(model), _ATTACK, compiled=compiled)
        for _ in range(_STEPS):
            step(images, labels)
    return peak_memory_bytes(torch.device(device))
