"""Methods by name."""

from __future__ import annotations

from typing import Any

from dynat_ray.config import MethodSettings
from dynat_ray.methods.base import Method, MethodContext

_METHODS: dict[str, type[Method[Any]]] = {}


def register(method: type[Method[Any]]) -> type[Method[Any]]:
    """Class decorator: makes a method known under its settings' default `name`."""
    _METHODS[method.settings_class.name] = method
    return method


def method_settings() -> dict[str, type[MethodSettings]]:
    """Returns the settings dataclass of every method, by name."""
    return {name: method.settings_class for name, method in _METHODS.items()}


def standard_model_key(name: str) -> str:
    """Returns the setting that takes the folder of a model trained by `standard`, which the method
    needs; empty if it needs none."""
    return _METHODS[name].standard_model_key


def ablation(name: str) -> tuple[str, ...]:
    """Returns the settings, as `key=value`, each of which switches off one part of a method."""
    return _METHODS[name].ablation


def build_method(settings: MethodSettings, context: MethodContext) -> Method[Any]:
    """Returns the method that `settings` (`config.method`) chose."""
    return _METHODS[settings.name](settings, context)
