"""What the sections of the settings have in common: fields are checked against their types."""

from __future__ import annotations

from dataclasses import dataclass, fields
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


def field_types(section: type[Section]) -> dict[str, object]:
    """Returns the types of a section's fields, restrictions included, by name."""
    hints = get_type_hints(section, include_extras=True)
    return {each.name: hints[each.name] for each in fields(section)}
