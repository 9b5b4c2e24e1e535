"""Room 8: figures for papers, and the page of a study.

`write_report` is the page; `figures.py` draws one measurement; `plots/` has a file for every figure
of a study.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etastar.report.page import write_report as write_report

__all__ = ["write_report"]


def __getattr__(name: str) -> Any:
    # figures of a single measurement should not wait for the imports of a whole study
    if name != "write_report":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from etastar.report.page import write_report

    return write_report
