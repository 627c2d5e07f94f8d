"""Which trackers there are, and whether one can be used: its package, its address, its key."""

from __future__ import annotations

import netrc
import os
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from urllib.parse import urlsplit

from dynat_ray.errors import UserError
from dynat_ray.shown_text import shown_text
from dynat_ray.tracking.tracker import Tracker

_MLFLOW_ADDRESS = "MLFLOW_TRACKING_URI"
_MLFLOW_STORES = ("http", "https", "file", "databricks", "databricks-uc", "uc")
_MLFLOW_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_WANDB_SERVER = "https://api.wandb.ai"
_WANDB_MODES = ("online", "offline", "shared", "disabled", "dryrun", "run")
# W&B refuses shorter ones.
_SHORTEST_WANDB_KEY = 40


def check_trackers(names: Sequence[str]) -> None:
    """Looks at what can be known of trackers before a run starts; nothing is sent.

    Args:
        names: Of `train.trackers`.

    Raises:
        UserError: The package of one is missing, or it is not said where it is or by which key.
    """
    for name in names:
        package, check = _CHECKS[name]
        if find_spec(package) is None:
            raise UserError(
                f"train.trackers has {name}, which is not installed: "
                f"pip install 'dynat-ray[{name}]'"
            )
        check()


def open_tracker(name: str) -> Tracker:
    """Returns a tracker; its package, which takes seconds to import, is imported now."""
    if name == "mlflow":
        from dynat_ray.tracking.mlflow import MLflow

        return MLflow()
    if name == "wandb":
        from dynat_ray.tracking.wandb import WandB

        return WandB()
    from dynat_ray.tracking.tensorboard import TensorBoard

    return TensorBoard()


def _check_mlflow() -> None:
    address = os.environ.get(_MLFLOW_ADDRESS, "")
    if not address:
        raise UserError(
            f"train.trackers has mlflow, but {_MLFLOW_ADDRESS} is not set: set it to the address "
            "of the server, such as http://HOST:5000"
        )
    if address == "databricks":
        return
    scheme, mark, _ = address.partition("://")
    kind, _, _ = scheme.partition("+")
    plugins = {each.name for each in entry_points(group="mlflow.tracking_store")}
    lacks_host = kind in ("http", "https") and not urlsplit(address).hostname
    if lacks_host or not mark or kind not in {*_MLFLOW_STORES, *_MLFLOW_DATABASES, *plugins}:
        raise UserError(
            f"train.trackers has mlflow, but {_MLFLOW_ADDRESS} is no address such as "
            "http://HOST:5000"
        )
    if kind in _MLFLOW_DATABASES and find_spec("sqlalchemy") is None:
        raise UserError(
            f"train.trackers has mlflow, and {_MLFLOW_ADDRESS} names a database, for which the "
            "client alone is not enough: pip install mlflow"
        )


def _check_wandb() -> None:
    mode = os.environ.get("WANDB_MODE", "online")
    if mode not in _WANDB_MODES:
        raise UserError(
            f"train.trackers has wandb, but WANDB_MODE is {shown_text(mode, 40)!r}; it can be "
            "online or offline"
        )
    if mode in ("offline", "disabled", "dryrun"):
        return
    host = urlsplit(os.environ.get("WANDB_BASE_URL", _WANDB_SERVER)).hostname
    if not host:
        raise UserError(
            "train.trackers has wandb, but WANDB_BASE_URL is no address such as https://HOST"
        )
    key = os.environ.get("WANDB_API_KEY", "")
    if key and len(key) < _SHORTEST_WANDB_KEY:
        raise UserError(
            f"train.trackers has wandb, but WANDB_API_KEY has {len(key)} characters; keys have "
            f"{_SHORTEST_WANDB_KEY} or more"
        )
    if not (key or os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or _is_in_netrc(host)):
        raise UserError(
            "train.trackers has wandb, but no key is known: run 'wandb login', set WANDB_API_KEY, "
            "or set WANDB_MODE=offline"
        )


def _is_in_netrc(host: str) -> bool:
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


_CHECKS: dict[str, tuple[str, Callable[[], object]]] = {
    "tensorboard": ("tensorboard", lambda: None),
    "mlflow": ("mlflow", _check_mlflow),
    "wandb": ("wandb", _check_wandb),
}
