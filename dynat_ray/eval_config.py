"""What is measured: the section `eval` of a run's settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from dynat_ray.section import Section
from dynat_ray.value_types import NonNegative, NonNegativeInt, PositiveInt


@dataclass(kw_only=True)
class EvalConfig(Section, section="eval"):
    """What is measured.

    Attributes:
        attacks: Attacks of the final table, on the test split.
        samples: Class-balanced number of test images that AutoAttack sees; 0: all. The cheaper
            attacks see all of them.
        eps_curve: Radii at which the final table's attacks are run besides, such as
            `[0, 2/255, 4/255]`. The mean over these and `threat.eps` is the expected robustness.
        second_stage: Of APGD's survivors those that `autoattack-sampled` tries further; 0: all.
        drafts: Let FAB and Square look for adversarial images in half precision where the device
            has it (under Linf); what they find counts when float32 confirms it.
        every_epochs: Epochs between two measurements on the validation split.
        beside: Measure there on a place of its own (a GPU more, or CPUs) while training goes on.
        steps: PGD steps of that measurement.
        batch_size: Images per forward pass when evaluating.
    """

    attacks: list[str] = field(default_factory=lambda: ["clean", "pgd-20", "autoattack"])
    samples: NonNegativeInt = 1000
    eps_curve: list[NonNegative] = field(default_factory=list)
    second_stage: NonNegativeInt = 200
    drafts: bool = False
    every_epochs: PositiveInt = 1
    beside: bool = False
    steps: PositiveInt = 10
    batch_size: PositiveInt = 256
