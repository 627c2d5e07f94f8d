"""Settings from recipes, YAML files and the command line, merged and checked.

Later sources win: defaults, recipe, `--config`, `--section.key` overrides. The fields of the
chosen method lie flat beside its name (`method.skew_coef`), so the set of valid keys depends on
`method.name`. What a recipe sets for its own method or model is dropped when the name is changed,
and its step size when the threat is: steps made for one would never reach the edge of another.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

import docstring_parser
import yaml

from dynat_ray.config import ModelConfig, RunConfig, ThreatConfig
from dynat_ray.errors import UserError, unknown_name
from dynat_ray.method_settings import method_settings
from dynat_ray.radius import parse_number
from dynat_ray.section import Section, field_types
from dynat_ray.strict_yaml import GivenTwice, load_yaml
from dynat_ray.value_types import check_value, describe_type, parse_text

# A setting's full key, such as `train.epochs`, to its value.
Settings = dict[str, Any]

DEFAULT_METHOD = "dynat"
# A setting, its default, and the keys that are meaningless once it is changed.
_CHOICES = (
    ("method.name", DEFAULT_METHOD, "method."),
    ("model.name", ModelConfig().name, "model.kwargs"),
    ("threat.norm", ThreatConfig().norm, "attack.step_size"),
    ("threat.eps", ThreatConfig().eps, "attack.step_size"),
)
# The two ways to say how long a run is.
_LENGTHS = ("train.epochs", "train.compute")
# Keys below this one are the user's own names.
_FREE_KEY = "model.kwargs"
_LARGEST_FILE = 2**20


def recipe_names() -> list[str]:
    """Returns the names of the recipes that come with the package."""
    folder = resources.files("dynat_ray") / "recipes"
    return sorted(file.name[:-5] for file in folder.iterdir() if file.name.endswith(".yaml"))


def read_recipe(name: str) -> Settings:
    """Returns a recipe's settings; raises `UserError` with the nearest names if there is none."""
    if name not in recipe_names():
        raise unknown_name("recipe", name, recipe_names())
    text = (resources.files("dynat_ray") / "recipes" / f"{name}.yaml").read_text()
    return parse_settings(text)


def parse_settings(text: str) -> Settings:
    """Returns the settings in YAML that is our own, such as `dump_config` writes."""
    sections = load_yaml(text)
    assert isinstance(sections, dict)
    return flatten(sections)


def read_settings(path: Path) -> Settings:
    """Returns the settings of a YAML file; raises `UserError` if it can't be read as such."""
    return flatten(read_sections(path))


def read_sections(path: Path) -> dict[str, Any]:
    """Returns what a YAML file holds, as it stands there.

    Raises:
        UserError: It can't be read, gives a key twice, holds no mapping, or stands for more than
            settings do.
    """
    try:
        with path.open(encoding="utf-8") as file:
            content = load_yaml(file.read(_LARGEST_FILE + 1))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the config file {path} can't be read: {error}") from None
    except GivenTwice as error:
        raise UserError(f"the config file {path} {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"the config file {path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"the config file {path} must hold sections such as 'train:'")
    return content


def build_config(layers: Sequence[Settings]) -> RunConfig:
    """Returns the config that `layers` of settings, later ones winning, make.

    Args:
        layers: Settings by full key.

    Raises:
        UserError: A key that does not exist, a value of the wrong type or out of range.
    """
    merged = _merge(layers)
    sections = _sections(str(merged.get("method.name", DEFAULT_METHOD)))
    known = [f"{name}.{key}" for name, section in sections.items() for key in field_types(section)]
    values: dict[str, dict[str, Any]] = {name: {} for name in sections}
    arguments: dict[str, Any] = {}
    for key, value in merged.items():
        name, _, setting = key.partition(".")
        if key in known:
            values[name][setting] = value
        elif key.startswith(f"{_FREE_KEY}."):
            arguments[key.removeprefix(f"{_FREE_KEY}.")] = parse_text(value)
        elif key not in sections or value is not None:
            # A section whose settings are all commented out sets nothing.
            raise unknown_name("setting", key, known)
    if arguments:
        given = values["model"].get("kwargs", {})
        values["model"]["kwargs"] = _join(given, arguments)
    built: dict[str, Any] = {name: section(**values[name]) for name, section in sections.items()}
    return RunConfig(**built)


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


@dataclass(frozen=True)
class Setting:
    """What `--help` says of a setting.

    Attributes:
        key: Its full key.
        allowed: What it may be, in words.
        default: As YAML writes it.
        sentence: What it does.
    """

    key: str
    allowed: str
    default: str
    sentence: str


def describe_settings(method: str = DEFAULT_METHOD) -> dict[str, list[Setting]]:
    """Returns every setting of a run by the `method`, by the titles of their sections."""
    sections = _sections(method)
    defaults = RunConfig(method=method_settings()[method]())
    described = {}
    for name, section in sections.items():
        sentences = _sentences(section)
        title = docstring_parser.parse(section.__doc__ or "").short_description or ""
        described[f"{name}: {title.rstrip('.')}"] = [
            Setting(
                f"{name}.{key}",
                describe_type(hint),
                _written(getattr(getattr(defaults, name), key)),
                sentences.get(key, ""),
            )
            for key, hint in field_types(section).items()
        ]
    return described


def _sentences(section: type[Section]) -> dict[str, str]:
    """Returns what the docstrings of a section and its base classes say of each field."""
    return {
        each.arg_name: " ".join((each.description or "").split())
        for owner in reversed(section.__mro__)
        for each in docstring_parser.parse(owner.__doc__ or "").params
    }


def _written(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def _merge(layers: Iterable[Settings]) -> Settings:
    merged: Settings = {}
    for layer in layers:
        layer = _one_length(layer)
        for chosen, default, dependent in _CHOICES:
            before, now = (
                _comparable(each) for each in (merged.get(chosen, default), layer.get(chosen))
            )
            if now is not None and now != before:
                merged = {key: v for key, v in merged.items() if not key.startswith(dependent)}
        if _FREE_KEY in layer:
            merged = {key: v for key, v in merged.items() if not key.startswith(_FREE_KEY)}
        merged.update(layer)
    return merged


def _one_length(layer: Settings) -> Settings:
    """Returns a layer which, where it gives one length of the run, takes the other away.

    A recipe's epochs are not meant where the user gives compute. Both in one layer stay, and are
    refused when the config is made.
    """
    given = [key for key in _LENGTHS if layer.get(key) is not None]
    if len(given) != 1:
        return layer
    return layer | {key: None for key in _LENGTHS if key not in given}


def _join(given: object, arguments: Mapping[str, object]) -> dict[str, Any]:
    """Returns the value of `model.kwargs` with its `arguments`, by the rest of their keys, set."""
    joined: dict[str, Any] = check_value(_FREE_KEY, given, dict[str, object])
    for key, value in arguments.items():
        *parents, leaf = key.split(".")
        place = joined
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise UserError(f"{_FREE_KEY}.{key}: {parent} is {place!r}, which has no names")
        place[leaf] = value
    return joined


def _comparable(value: object) -> object:
    """Returns a value, a number if it is text that says one: `8/255` is what it stands for."""
    try:
        return parse_number(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _sections(method: str) -> dict[str, type[Section]]:
    """Returns the classes of all sections, by name; that of `method` depends on the method's."""
    methods = method_settings()
    if method not in methods:
        raise unknown_name("method", method, methods)
    hints = get_type_hints(RunConfig)
    return hints | {"method": methods[method]}


def flatten(content: Mapping[str, Any], prefix: str = "") -> Settings:
    """Returns nested sections as one level of full keys, such as `train.epochs`."""
    settings: Settings = {}
    for name, value in content.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key != _FREE_KEY:
            settings.update(flatten(value, f"{key}."))
        else:
            settings[key] = value
    return settings
