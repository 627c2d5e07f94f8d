"""What other installed packages add: methods, attacks and sources of their own.

A package names a module under the entry-point group `dynat_ray.plugins`; importing it registers
what it adds. So the command and every worker on every machine know of it, and nothing is imported
that nobody has installed.
"""

from __future__ import annotations

import warnings
from importlib.metadata import entry_points

_GROUP = "dynat_ray.plugins"


def load_plugins() -> None:
    """Imports the modules that installed packages name; warns of one that can't be."""
    for entry in entry_points(group=_GROUP):
        try:
            entry.load()
        except (Exception, SystemExit) as error:  # Code of others must not stop ours.
            warnings.warn(
                f"the plugin '{entry.name}' ({entry.value}) is left out, since importing it "
                f"failed: {type(error).__name__}: {error}",
                stacklevel=2,
            )
