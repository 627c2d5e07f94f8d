"""Folders for temporary files: the user's own, and one that ends with a command.

The processes of a Ray that a command has started are killed in the end, and so leave what they have
in their `TMPDIR`: it is a folder that the command removes. What is compiled is for later commands,
too, and so lies in the user's own.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

LASTING = "DYNAT_RAY_TMPDIR"
"""Set for the processes of a command: its user's folder for temporary files."""


def lasting_temporary_folder() -> Path:
    """Returns the user's folder for temporary files, also in what a command has started."""
    return Path(os.environ.get(LASTING) or tempfile.gettempdir())
