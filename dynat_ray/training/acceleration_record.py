"""What of the acceleration a run has really used, in its record."""

from __future__ import annotations

from contextlib import suppress

from dynat_ray.acceleration.twin import cpu_kernels_status, twin_status
from dynat_ray.storage.environment import add_to_environment, read_environment
from dynat_ray.training.session import Session
from dynat_ray.training.step import Networks


def record_acceleration(session: Session, networks: Networks) -> None:
    """Writes into `environment.json` whether attacks run on a twin, and on which kernels.

    A refused twin is told to the user, the first time. Call it on one worker.

    Args:
        session: Where the run is.
        networks: What has been attacked.
    """
    used = {
        "cpu_kernels": cpu_kernels_status(session.device),
        "twin": twin_status(networks.attacked),
    }
    before = read_environment(session.run_folder)
    if used.items() <= before.items():
        return
    with suppress(OSError):  # a full disk is told where the metrics are written
        add_to_environment(session.run_folder, used)
    if used["twin"].startswith("refused") and "refused" not in str(before.get("twin")):
        session.note(f"attacks are slower than they could be: the twin is {used['twin']}")
