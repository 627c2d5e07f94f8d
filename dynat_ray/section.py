"""What the sections of the settings have in common: fields are checked against their types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import ClassVar, get_type_hints

from dynat_ray.value_types import check_value


@dataclass(kw_only=True)
class Section:
    """Base of the sections: every field is checked against its type, however it was set.

    Attributes:
        section: First part of its keys, such as `train` of `train.epochs`.
    """

    section: ClassVar[str]

    def __init_subclass__(cls, section: str = "") -> None:
        super().__init_subclass__()
        if section:
            cls.section = section

    def __post_init__(self) -> None:
        for name, hint in field_types(type(self)).items():
            setattr(self, name, check_value(f"{self.section}.{name}", getattr(self, name), hint))


_field_types: dict[type[Section], Mapping[str, object]] = {}


def field_types(section: type[Section]) -> Mapping[str, object]:
    """Returns the types of a section's fields, restrictions included, by name."""
    if section not in _field_types:
        hints = get_type_hints(section, include_extras=True)
        found = {each.name: hints[each.name] for each in fields(section)}
        _field_types[section] = MappingProxyType(found)
    return _field_types[section]
