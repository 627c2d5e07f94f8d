"""What is exported: a model, and the run that it comes from where there is one."""

from __future__ import annotations

from dataclasses import dataclass

from dynat_ray.models import Classifier, load_model
from dynat_ray.models.hub import folder_of
from dynat_ray.report.reading import Run, read_run


@dataclass(frozen=True)
class Origin:
    """A model to export.

    Attributes:
        model: In eval mode, on the CPU.
        run: That trained it; None: only the model is there.
    """

    model: Classifier
    run: Run | None

    @property
    def classes(self) -> list[str]:
        """Names of the classes; empty where nobody knows them."""
        info = self.run.info if self.run else None
        return info.classes if info and info.num_classes == self.model.num_classes else []


def read_origin(source: str) -> Origin:
    """Returns a model and its run.

    Args:
        source: A run folder, its `model/` or `model_last/`, or what else `load_model` takes.

    Raises:
        UserError: There is no such model.
    """
    model, folder = load_model(source), folder_of(source)
    run = next((each for each in (folder, folder.parent) if (each / "config.yaml").is_file()), None)
    return Origin(model, read_run(run) if run else None)
