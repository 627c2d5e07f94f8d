"""HTML pages that need nothing beside them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import jinja2

from dynat_ray.atomic_files import atomic_write_text
from dynat_ray.errors import UserError
from dynat_ray.shown_text import shown_text

# Characters of a name in a table; where it is the subject, it is shown whole.
_LONGEST_NAME = 60


def write_page(file: Path, template: str, content: Mapping[str, Any]) -> Path:
    """Fills a template of this room and writes the page, as a whole.

    Args:
        file: The page.
        template: Name of the template.
        content: Its variables; a missing one is an error.

    Returns:
        The file.

    Raises:
        UserError: It can't be written.
    """
    page = _environment().get_template(template).render(content)
    try:
        atomic_write_text(file, page)
    except OSError as error:
        raise UserError(f"{file} can't be written: {error}") from error
    return file


@cache
def _environment() -> jinja2.Environment:
    """Returns what keeps the compiled templates."""
    # Names of runs, classes and folders are the user's: everything is cleaned and escaped.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dynat_ray.report", package_path=""),
        autoescape=True,
        finalize=_cleaned,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short"] = partial(shown_text, longest=_LONGEST_NAME)
    return environment


def _cleaned(value: Any) -> Any:
    """Returns what a template shows; its own blocks (`Markup`) and spaces stay as they are."""
    return shown_text(value) if type(value) is str and not value.isprintable() else value
