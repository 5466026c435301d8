"""Files of figures: SVG and PNG, or a page, CSV and JSON of each, and a page that shows them all.

The same input gives the same bytes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain import __version__
from toolchain.data import Samples, sha256_of
from toolchain.errors import printable
from toolchain.explain.atlas import Atlas
from toolchain.explain.figure import Figure, Row, Scalar
from toolchain.explain.interactive import page
from toolchain.explain.plots import drawn
from toolchain.files import check_new, write_atomic, write_text
from toolchain.model import Model
from toolchain.tables import inert, shown

if TYPE_CHECKING:
    from jinja2 import Template

SCHEMA = "jettison.explain/1"
DRAWN, BROWSED, NUMBERS = ("svg", "png"), ("html",), ("csv", "json")
PAGES = ("index.html", "figures.json")
LONGEST = 60  # letters of a layer's name in a file's
MOST_ROWS, MOST_LETTERS = 24, 160  # of a table and of its cells on the page: more is folded, or left to the CSV


def stem(name: str, about: str = "") -> str:
    """The name of a figure's files: names inside model files are never a path."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", about).strip("-.")
    mark = "" if plain == about and len(plain) <= LONGEST else f"-{hashlib.sha256(about.encode()).hexdigest()[:6]}"
    return f"{name}-{plain[:LONGEST]}{mark}" if about else name


def paths(folder: Path, stems: Sequence[str]) -> list[Path]:
    """Every file that figures of these stems and their page are written to."""
    suffixes = (*DRAWN, *BROWSED, *NUMBERS)
    return [folder / f"{s}.{suffix}" for s in stems for suffix in suffixes] + [folder / p for p in PAGES]


def suffixes_of(figure: Figure) -> tuple[str, ...]:
    """Of its files, the one to be looked at first."""
    return (*(BROWSED if isinstance(figure.chart, Atlas) else DRAWN), *NUMBERS)


def check_folder(folder: Path, stems: Sequence[str], force: bool) -> None:
    """Make the folder; raises UsageError where a file exists and may not be replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths(folder, stems):
        check_new(path, force)


def origin(model: Model, sets: Sequence[Samples], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What figures were made of and with: tool, hashes, settings."""
    return {
        "tool": {"name": "jettison", "version": __version__},
        "model": {"sha256": model.sha256},
        "data": [{"name": s.name, "samples": len(s), "sha256": sha256_of(s)} for s in sets],
        "settings": dict(settings),
    }


def write_figure(figure: Figure, folder: Path, made_of: Mapping[str, Any], force: bool = False) -> list[Path]:
    """Write the files of one figure; raises UsageError where one exists and `force` is not set."""
    body = {"schema": SCHEMA} | dict(made_of) | described(figure) | {"rows": figure.rows}
    is_browsed = isinstance(figure.chart, Atlas)
    seen = {"html": page(figure, made_of, PAGES[0]).encode()} if is_browsed else drawn(figure)
    contents = seen | {"csv": as_csv(figure.rows).encode(), "json": as_json(body).encode()}
    suffixes = suffixes_of(figure)
    written = [folder / f"{stem(figure.name, figure.about)}.{suffix}" for suffix in suffixes]
    for path in written:
        check_new(path, force)
    for path, suffix in zip(written, suffixes, strict=True):
        write_atomic(path, lambda file, content=contents[suffix]: file.write(content))
    return written


def write_pages(
    figures: Sequence[Figure],
    left_out: Mapping[str, str],
    folder: Path,
    made_of: Mapping[str, Any],
    title: str,
    force: bool = False,
) -> list[Path]:
    """Write index.html and figures.json.

    left_out  {figure: why it cannot be made}
    """
    written = [folder / p for p in PAGES]
    for path in written:
        check_new(path, force)
    listed = [described(f) | {"files": [f"{stem(f.name, f.about)}.{s}" for s in suffixes_of(f)]} for f in figures]
    body = {"schema": SCHEMA} | dict(made_of) | {"figures": listed, "left_out": dict(left_out)}
    cells = [[{k: (brief(v), isinstance(v, str)) for k, v in row.items()} for row in f.table] for f in figures]
    kinds = [(name.replace("-", " "), list(found)) for name, found in groupby(listed, lambda f: str(f["figure"]))]
    about = {"title": title, "pairs": list(zip(listed, cells, strict=True)), "kinds": kinds, "most_rows": MOST_ROWS}
    write_text(written[0], template().render(body | about))
    write_text(written[1], as_json(body))
    return written


def brief(value: Scalar) -> str:
    """A value as people read it, the rest of a long one left to the CSV."""
    text = shown(value)
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]} … ({len(text):,} letters)"


def described(figure: Figure) -> dict[str, Any]:
    """A figure without its numbers."""
    return {
        "figure": figure.name,
        "stem": stem(figure.name, figure.about),
        "about": figure.about,
        "title": figure.title,
        "source": figure.source,
        "caption": figure.caption,
        "facts": dict(figure.facts),
    }


def as_json(body: Mapping[str, Any]) -> str:
    """With an end of line, so that it is a text file."""
    return json.dumps(body, indent=1, ensure_ascii=False) + "\n"


def as_csv(rows: Sequence[Row]) -> str:
    """Numbers in full, text that no spreadsheet takes for a formula; a column for whatever any row has."""
    out = io.StringIO()
    columns = list(dict.fromkeys(k for r in rows for k in r))
    writer = csv.writer(out, lineterminator="\n")
    for row in ({k: k for k in columns}, *rows):
        writer.writerow([inert(printable(v)) if isinstance(v, str) else v for v in map(row.get, columns)])
    return out.getvalue()


@cache
def template() -> Template:
    """The page."""
    from jinja2 import Environment, StrictUndefined

    finalize = lambda value: printable(value) if type(value) is str else value
    env = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=finalize, trim_blocks=True, lstrip_blocks=True
    )
    return env.from_string(files("toolchain.explain").joinpath("index.html.j2").read_text("utf-8"))
