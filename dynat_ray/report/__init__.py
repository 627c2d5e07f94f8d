"""Tables, figures and the HTML report of a run; reads run folders only."""

from __future__ import annotations

from dynat_ray.report.run_page import write_report
from dynat_ray.report.text import final_table

__all__ = ["final_table", "write_report"]
