"""The settings of methods, by the method's name."""

from __future__ import annotations

from typing import TypeVar

from dynat_ray.config import MethodSettings

_SETTINGS: dict[str, type[MethodSettings]] = {}
_Class = TypeVar("_Class", bound=type[MethodSettings])


def register_settings(settings: _Class) -> _Class:
    """Class decorator: makes settings known as those of the method that `name` is by default."""
    _SETTINGS[settings.name] = settings
    return settings


def method_settings() -> dict[str, type[MethodSettings]]:
    """Returns the settings dataclass of every method, by name."""
    return dict(_SETTINGS)
