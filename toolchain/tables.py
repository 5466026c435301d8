"""Rows of plain values as a terminal table, JSON, CSV or Markdown; what comes out of files is escaped in each."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from typing import Any

from toolchain.errors import printable

FORMATS = ("table", "json", "csv", "md")


def show(rows: Sequence[dict[str, Any]], form: str, title: str = "") -> None:
    """Print rows, which all have the same keys, to stdout."""
    if form == "json":
        print(json.dumps(list(rows), indent=1))
    elif form == "csv":
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(rows[0] if rows else [])
        writer.writerows([v if isinstance(v, (int, float)) else inert(shown(v)) for v in r.values()] for r in rows)
        print(out.getvalue(), end="")
    elif form == "md":
        print(markdown(rows))
    else:
        terminal(rows, title)


def shown(value: Any) -> str:
    """A value as people read it."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return "×".join(str(v) for v in value)
    return printable(str(value))


def inert(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return "'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A GitHub table."""
    if not rows:
        return ""
    cells = [list(rows[0]), ["---"] * len(rows[0]), *([shown(v) for v in r.values()] for r in rows)]
    escaped = ([c.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;") for c in row] for row in cells)
    return "\n".join("| " + " | ".join(row) + " |" for row in escaped)


def terminal(rows: Sequence[dict[str, Any]], title: str) -> None:
    """A table for people: in colour and folded to the width on a terminal, else plain lines."""
    if not sys.stdout.isatty():  # a pipe wants no colours, and the import of rich is a tenth of a short command
        print(*filter(None, [title, aligned(rows)]), sep="\n")
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    keys, right = list(rows[0]) if rows else [], numeric(rows)
    table = Table(box=SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for key in keys:
        table.add_column(Text(key), justify="right" if right[key] else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(v)) for v in row.values()))
    Console().print(table)


def aligned(rows: Sequence[dict[str, Any]]) -> str:
    """Plain lines with columns of equal width, numbers at their right."""
    keys, right = list(rows[0]) if rows else [], numeric(rows)
    cells = [keys, *([shown(r[k]) for k in keys] for r in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(keys))]
    cells.insert(1, ["─" * w for w in widths])
    pairs = (zip(keys, row, widths, strict=True) for row in cells)
    return "\n".join("  ".join(c.rjust(w) if right[k] else c.ljust(w) for k, c, w in row).rstrip() for row in pairs)


def numeric(rows: Sequence[dict[str, Any]]) -> dict[str, bool]:
    """Which columns have nothing but numbers."""
    keys = rows[0] if rows else {}
    return {k: all(isinstance(r[k], (int, float, type(None))) for r in rows) for k in keys}
