"""How a command tells the trainings under it to end, and they tell it how far they are with that.

It is a flag in the cluster's own store, and one for each training beside it. Ray Train's controller
imports this file, so that it imports little.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from dynat_ray.distributed.ray_internals import flags_below, read_flag, remove_flag, set_flag

_TRAINS, _SAVES, _SAVED = "trains", "saves", "saved"


def _new_name() -> str:
    return f"dynat-ray-stop-{uuid.uuid4().hex}"


@dataclass(frozen=True)
class StopFlag:
    """The flag of a command and, in a training, that of the training.

    Attributes:
        name: The command's.
        training: What tells the trainings of a command apart; empty: the command itself.
    """

    name: str = field(default_factory=_new_name)
    training: str = ""

    def of_training(self) -> StopFlag:
        """Returns the flag of one more training of this command."""
        return StopFlag(self.name, uuid.uuid4().hex)

    def set(self) -> None:
        """Asks all trainings of the command to end."""
        set_flag(self.name)

    def is_set(self) -> bool:
        """Returns whether they are to end; a training that asks and hears so says that it saves."""
        if not read_flag(self.name):
            return False
        self._say(_SAVES)
        return True

    def begin(self) -> None:
        """Says that a training has begun: it has something to save from now on."""
        self._say(_TRAINS)

    def is_up(self) -> bool:
        """Returns whether the training has begun and not ended."""
        return bool(read_flag(self._own))

    def end(self, *, saved: bool) -> None:
        """Says that it has ended.

        Args:
            saved: Because it was asked to, and all it had to save is saved.
        """
        if saved:
            self._say(_SAVED)
        else:
            remove_flag(self._own)

    def left(self) -> tuple[int, int, int]:
        """Returns how many trainings have not heard of it yet, are saving, and have saved."""
        said = [read_flag(name) for name in flags_below(f"{self.name}/")]
        return said.count(_TRAINS), said.count(_SAVES), said.count(_SAVED)

    def remove(self) -> None:
        """Removes all of it."""
        for name in [self.name, *flags_below(f"{self.name}/")]:
            remove_flag(name)

    @property
    def _own(self) -> str:
        return f"{self.name}/{self.training}"

    def _say(self, word: str) -> None:
        if self.training:
            set_flag(self._own, word)
