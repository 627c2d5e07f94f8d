"""Settings from recipes, YAML files and the command line, merged and checked.

Later sources win: defaults, recipe, `--config`, `--section.key` overrides. The fields of the
chosen method lie flat beside its name (`method.skew_coef`), so the set of valid keys depends on
`method.name`. What a recipe sets for its own method or model is dropped when the name is changed,
and its step size when the threat is: steps made for one would never reach the edge of another.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_type_hints

import jsonargparse
import yaml

from dynat_ray.config import ModelConfig, RunConfig, ThreatConfig
from dynat_ray.errors import UserError, unknown_name
from dynat_ray.methods import method_settings

# A setting's full key, such as `train.epochs`, to its value.
Settings = dict[str, Any]

_NUMBER = r"(?:\d+\.?\d*|\.\d+)"
_FRACTION = re.compile(rf"\s*(-?{_NUMBER})\s*/\s*({_NUMBER})\s*")
_DEFAULT_METHOD = "dynat"
# A setting, its default, and the keys that are meaningless once it is changed.
_CHOICES = (
    ("method.name", _DEFAULT_METHOD, "method."),
    ("model.name", ModelConfig().name, "model.kwargs"),
    ("threat.norm", ThreatConfig().norm, "attack.step_size"),
    ("threat.eps", ThreatConfig().eps, "attack.step_size"),
)
# Keys below these are the user's own names.
_FREE_KEYS = ("model.kwargs",)


def recipe_names() -> list[str]:
    """Returns the names of the recipes that come with the package."""
    folder = resources.files("dynat_ray") / "recipes"
    return sorted(file.name[:-5] for file in folder.iterdir() if file.name.endswith(".yaml"))


def read_recipe(name: str) -> Settings:
    """Returns a recipe's settings; raises `UserError` with the nearest names if there is none."""
    if name not in recipe_names():
        raise unknown_name("recipe", name, recipe_names())
    text = (resources.files("dynat_ray") / "recipes" / f"{name}.yaml").read_text()
    return flatten(yaml.safe_load(text))


def read_settings(path: Path) -> Settings:
    """Returns the settings of a YAML file; raises `UserError` if it can't be read as such."""
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the config file {path} can't be read: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"the config file {path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"the config file {path} must hold sections such as 'train:'")
    return flatten(content)


def build_config(layers: Sequence[Settings]) -> RunConfig:
    """Returns the config that `layers` of settings, later ones winning, make.

    Args:
        layers: Settings by full key.

    Raises:
        UserError: A key that does not exist, a value of the wrong type or out of range.
    """
    # A section whose settings are all commented out sets nothing.
    section_names = [field.name for field in fields(RunConfig)]
    merged = {
        key: value
        for key, value in _merge(layers).items()
        if value is not None or key not in section_names
    }
    parser = _section_parser(_method_class(merged))
    known = _known_keys(parser)
    types = _key_types(_method_class(merged))
    for key in merged:
        if key not in known and not key.startswith(tuple(f"{free}." for free in _FREE_KEYS)):
            raise unknown_name("setting", key, known)
    values = {key: _read_value(value, types.get(key)) for key, value in merged.items()}
    for key, value in values.items():
        if value is None and key in known and type(None) not in get_args(types[key]):
            raise UserError(f"{key} has no value; give it one, or leave it out for its default")
    try:
        sections = parser.instantiate(parser.parse_object(_nest(values)))
    except (argparse.ArgumentError, jsonargparse.ArgumentError) as error:
        raise UserError(_readable(str(error))) from None
    return RunConfig(**{field.name: sections[field.name] for field in fields(RunConfig)})


def dump_config(config: RunConfig) -> str:
    """Returns a config as YAML, every key written out; `build_config` reads it back."""
    return yaml.safe_dump(asdict(config), sort_keys=False)


def override(config: RunConfig, settings: Settings) -> RunConfig:
    """Returns `config` with `settings` (full key to value) changed and everything checked again."""
    return build_config([flatten(asdict(config)), settings])


def split_arguments(argv: Sequence[str]) -> tuple[Settings, list[str]]:
    """Separates `--section.key VALUE` (or `=VALUE`) from a command's own options.

    Returns:
        The overrides, and the arguments that are left.
    """
    overrides: Settings = {}
    rest: list[str] = []
    arguments = list(argv)
    while arguments:
        argument = arguments.pop(0)
        name, equals, value = argument.partition("=")
        if not (name.startswith("--") and "." in name):
            rest.append(argument)
            continue
        if not equals:
            if not arguments or (arguments[0].startswith("--") and len(arguments[0]) > 2):
                raise UserError(f"{name} needs a value")
            value = arguments.pop(0)
        overrides[name[2:]] = value
    return overrides, rest


def describe_settings() -> str:
    """Returns every key with its default, a line each, for `--help`."""
    config = RunConfig(method=method_settings()[_DEFAULT_METHOD]())
    lines = [f"  --{key} {value!r}" for key, value in flatten(asdict(config)).items()]
    return "settings and their defaults:\n" + "\n".join(lines)


def _merge(layers: Sequence[Settings]) -> Settings:
    merged: Settings = {}
    for layer in layers:
        for chosen, default, dependent in _CHOICES:
            before, now = (
                _read_value(each, float)
                for each in (merged.get(chosen, default), layer.get(chosen))
            )
            if now is not None and now != before:
                merged = {key: v for key, v in merged.items() if not key.startswith(dependent)}
        merged.update(layer)
    return merged


def _method_class(settings: Settings) -> type:
    methods = method_settings()
    name = str(settings.get("method.name", _DEFAULT_METHOD))
    if name not in methods:
        raise unknown_name("method", name, methods)
    return methods[name]


def _sections(method: type) -> dict[str, type]:
    hints = get_type_hints(RunConfig)
    return {name: method if name == "method" else hint for name, hint in hints.items()}


def _section_parser(method: type) -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    for name, section in _sections(method).items():
        parser.add_class_arguments(section, name)
    return parser


def _known_keys(parser: jsonargparse.ArgumentParser) -> list[str]:
    # A Namespace iterates over its sections, not its full keys.
    return [key for key in parser.get_defaults().keys() if "." in key]  # noqa: SIM118


def _key_types(method: type) -> dict[str, Any]:
    return {
        f"{name}.{key}": hint
        for name, section in _sections(method).items()
        for key, hint in get_type_hints(section).items()
    }


def _read_value(value: Any, hint: Any) -> Any:
    """Reads what YAML leaves as text: fractions, `1e-3`, comma-separated lists, flags."""
    if hint == list[float] and value is not None:
        numbers = _list_of_text(value) if isinstance(value, str) else value
        return [
            _read_value(each, float)
            for each in (numbers if isinstance(numbers, list) else [numbers])
        ]
    if hint == int | str:
        # The section says what it allows; its type says only that it may be text.
        return int(value) if str(value).isdecimal() else str(value)
    if "off" in get_args(hint) and _read_yaml(str(value)) is False:
        return "off"  # which YAML takes for false
    if not isinstance(value, str) or hint is str:
        return value
    if hint is float:
        match = _FRACTION.fullmatch(value)
        if match and float(match[2]) != 0:
            return float(match[1]) / float(match[2])
        try:
            return float(value)
        except ValueError:
            pass
    return _list_of_text(value) if hint == list[str] else _read_yaml(value)


def _list_of_text(value: str) -> Any:
    if value.lstrip().startswith("["):
        return _read_yaml(value)
    return [part.strip() for part in value.split(",") if part.strip()]


def _read_yaml(value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def flatten(content: Mapping[str, Any], prefix: str = "") -> Settings:
    """Returns nested sections as one level of full keys, such as `train.epochs`."""
    settings: Settings = {}
    for name, value in content.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key not in _FREE_KEYS:
            settings.update(flatten(value, f"{key}."))
        else:
            settings[key] = value
    return settings


def _nest(settings: Settings) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        *parents, leaf = key.split(".")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = value
    return nested


def _readable(message: str) -> str:
    """Turns jsonargparse's message into one sentence: key, value, what is allowed."""
    message = " ".join(message.split())
    match = re.search(r'Parser key "([^"]+)": (.*)', message)
    if not match:
        return message
    key, rest = match[1], match[2]
    expected = re.search(r"Expected an? (.+?)\. Got value: (.*)$", rest)
    if not expected:
        return f"{key}: {rest}"
    allowed = re.sub(r"<class '(\w+)'>", r"\1", expected[1]).replace("typing.", "")
    allowed = {"int": "a whole number", "float": "a number such as 0.1 or 8/255"}.get(
        allowed, allowed.replace("Literal", "one of ")
    )
    return f"{key} is {expected[2]!r}; it must be {allowed}"
