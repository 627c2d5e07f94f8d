"""The notebook of docs/ runs as it stands, with a training that is short."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from dynat_ray.config import RunConfig
from dynat_ray.settings import dump_config, override

NOTEBOOK = Path(__file__).parent.parent / "docs" / "quickstart.ipynb"
_SECONDS_PER_CELL = 600
_SHORT = {"train.epochs": 1, "eval.attacks": ["clean", "pgd-2"], "cluster.workers": 1}


@pytest.mark.skipif(
    find_spec("nbclient") is None or find_spec("ipykernel") is None, reason="needs nbclient"
)
def test_it_runs(small_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    short = tmp_path / "short.yaml"
    short.write_text(dump_config(override(small_config, _SHORT)))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    (first,) = (each for each in notebook.cells if "parameters" in each.metadata.get("tags", []))
    first.source += f'\nSETTINGS = "--config {short}"'
    client = NotebookClient(
        notebook, timeout=_SECONDS_PER_CELL, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    kinds = {
        kind
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        for kind in output.get("data", {})
    }
    assert kinds >= {"text/html", "image/png"}
    assert (tmp_path / "runs" / "quickstart" / "report.html").is_file()
