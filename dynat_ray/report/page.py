"""HTML pages that need nothing beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from dynat_ray.errors import UserError
from dynat_ray.storage.atomic import atomic_write_text


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
    # Names of runs, classes and folders are the user's: everything is escaped.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dynat_ray.report", package_path=""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(content)
    try:
        atomic_write_text(file, page)
    except OSError as error:
        raise UserError(f"{file} can't be written: {error}") from error
    return file
