"""Rows of results as links that carry their own file: nothing has to be fetched."""

from __future__ import annotations

import base64
import gzip
import html
import io

from etastar.report.style import count
from etastar.study.export import Columns, write_rows

MOST_PLAIN = 4_000_000
"""Characters beyond which a file is compressed: pandas reads it as it is."""


def link(columns: Columns, name: str, what: str = "row") -> str:
    """An HTML link that downloads these columns as `name.csv`.

    Args:
        columns: The table.
        name: Name of the file, without its ending.
        what: What a row is, for the link's text.
    """
    buffer = io.StringIO()
    write_rows(columns, buffer)
    text = buffer.getvalue()
    kind, ending, content = "text/csv;charset=utf-8", "csv", text.encode()
    if len(text) > MOST_PLAIN:
        # without a time stamp, so that the same results give the same page
        kind, ending, content = "application/gzip", "csv.gz", gzip.compress(content, 6, mtime=0)
    rows = len(next(iter(columns.values()), []))
    data = base64.b64encode(content).decode("ascii")
    shown = html.escape(f"{count(rows, what)} ({ending.upper()})")
    file = html.escape(f"{name}.{ending}", quote=True)
    return f'<a class="rows" download="{file}" href="data:{kind};base64,{data}">{shown}</a>'
