"""Which test images a model answers rightly: what differences between models are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dynat_ray.errors import UserError
from dynat_ray.evaluation.second_stage import SecondStage
from dynat_ray.shown_text import shown_text


@dataclass(frozen=True)
class Answers:
    """What a model says of test images without attack, or under one.

    Attributes:
        index: Places of the images in the test split, `(n,)`.
        right: Whether the model is still right, `(n,)`.
        second_stage: Which images the last stages of the attack saw, if that was a part of those
            still right; the others count as right in `right`.
    """

    index: NDArray[np.int64]
    right: NDArray[np.bool_]
    second_stage: SecondStage | None = None

    def chances(self) -> NDArray[np.float64]:
        """Returns for each image the chance that it is right, `(n,)`: 0 or 1 where that is known.

        An image that the last stages did not see stands as often as those that they saw of its
        stratum, so that the mean is the estimate of accuracy.
        """
        chances = self.right.astype(np.float64)
        if self.second_stage is not None:
            stratum, tried = self.second_stage.stratum, self.second_stage.tried
            for number in np.unique(stratum[stratum >= 0]):
                inside = stratum == number
                chances[inside & ~tried] = self.right[inside & tried].mean()
        return chances


def read_answers(file: Path, measures: Sequence[str], **row: str | float) -> dict[str, Answers]:
    """Reads the per-sample file of an evaluation or a run.

    Args:
        file: Written by `dynat_ray.evaluation.results`.
        measures: Names of attacks, or `clean`.
        row: A column and its value in the rows that count, such as `eps=0.1` or `model="last"`.

    Returns:
        Answers by measure, in the order asked for; measures that the file lacks are left out.

    Raises:
        UserError: The file can't be read, or is none of these.
    """
    ((column, value),) = row.items()
    try:
        table = pq.read_table(file)
        table = table.filter(pc.equal(table[column], value))
        return {
            measure: _answers(table, measure)
            for measure in measures
            if f"{measure}.correct" in table.column_names
        }
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        words = f"{file} can't be read as outcomes of test images: {error}"
        raise UserError(shown_text(words)) from None


def _answers(table: pa.Table, measure: str) -> Answers:
    table = table.filter(pc.is_valid(table[f"{measure}.correct"]))
    second_stage = None
    if f"{measure}.tried" in table.column_names and table[f"{measure}.tried"].null_count == 0:
        second_stage = SecondStage(
            table[f"{measure}.stratum"].to_numpy(), table[f"{measure}.tried"].to_numpy()
        )
    return Answers(table["index"].to_numpy(), table[f"{measure}.correct"].to_numpy(), second_stage)
