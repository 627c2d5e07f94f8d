"""Methods by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import make_dataclass
from typing import Any

from dynat_ray.config import MethodSettings
from dynat_ray.method_settings import register_settings
from dynat_ray.methods.base import Method, MethodContext

_METHODS: dict[str, type[Method[Any]]] = {}


def register(method: type[Method[Any]]) -> type[Method[Any]]:
    """Class decorator: makes a method known under its settings' default `name`."""
    settings = register_settings(method.settings_class)
    _METHODS[settings.name] = method
    return method


def register_as(name: str) -> Callable[[type[Method[Any]]], type[Method[Any]]]:
    """Class decorator: makes a method known under `name`, with the settings of its base class."""

    def register_named(method: type[Method[Any]]) -> type[Method[Any]]:
        method.settings_class = make_dataclass(
            f"{method.__name__}Settings",
            [("name", str, name)],
            bases=(method.settings_class,),
            kw_only=True,
        )
        return register(method)

    return register_named


def build_method(settings: MethodSettings, context: MethodContext) -> Method[Any]:
    """Returns the method that `settings` (`config.method`) chose."""
    return _METHODS[settings.name](settings, context)
