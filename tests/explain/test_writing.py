"""Files of figures: the same bytes for the same figure, whole files or none, and names that harm nobody."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from compress.networks import network, samples
from PIL import Image

from toolchain.data import Samples
from toolchain.errors import UsageError
from toolchain.explain.colours import SHARE, SIGNED, rgb
from toolchain.explain.figure import Bars, Boxes, Chart, Figure, Gallery, Grid, Histogram, Lines, Panels, Series
from toolchain.explain.plots import drawn
from toolchain.explain.writing import (
    MOST_LETTERS,
    MOST_ROWS,
    as_csv,
    check_folder,
    origin,
    stem,
    write_figure,
    write_pages,
)

HOSTILE = "=cmd|'/c calc'!A1 <script>alert(1)</script> $\\frac{x}$ ../../x\n\x1b[31m {{ 7*7 }} _^&%"
MADE_OF = {"tool": {"name": "jettison", "version": "0"}, "model": {"sha256": "00"}, "data": [], "settings": {}}


def y(n: int) -> np.ndarray:
    return np.linspace(-1, 2, n)


def grouped(name: str = "a") -> Bars:
    return Bars((name, "b"), (Series(name, y(2)), Series("s", y(2))), "category", "quantity", (3, 4))


CHARTS: dict[str, Chart] = {
    "grouped": grouped(),
    "one bar": Bars(("a",), (Series("s", np.zeros(1)),), "category", "quantity"),
    "lying": Bars(("a long name", "another"), (Series("s", y(2)),), "category", "quantity"),
    "many categories": Bars(
        tuple(f"category {i}" for i in range(30)), (Series("s", y(30)), Series("t", y(30))), "c", "q"
    ),
    "lines": Lines((Series("a", y(9), np.arange(9)), Series("b", y(9), np.arange(9), y(9) - 1, y(9) + 1)), "x", "y"),
    "shares": Lines((Series("a", np.zeros(2), np.array([0.0, 100.0])),), "units masked [%]", "accuracy [%]", True),
    "a point": Lines((Series("a", np.ones(1), np.ones(1)),), "x", "y"),
    "histogram": Histogram(np.array([-1.0, 0.0, 1.0]), np.array([5, 900]), "rank", "units"),
    "empty histogram": Histogram(np.array([0.0, 1.0]), np.array([0]), "rank", "units"),
    "gallery": Gallery((np.zeros((4, 4), np.float32), np.ones((4, 4, 3), np.float32)), ("a", "b"), (0, 1)),
    "boxes": Boxes(({"layer": "conv", "op": "Conv", "output": "1×2", "params": 3, "macs": 4},) * 100),
    "panels": Panels((grouped(), grouped()), ("first", "second")),
}  # fmt: skip


def figure(chart: Chart, name: str = "unit", about: str = "dense1", word: str = "words") -> Figure:
    return Figure(name, f"Title {word}", "Source", f"Caption {word}.", chart, about, facts=(("n", 3),))


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_is_drawn_and_twice_the_same(name: str) -> None:
    first, second = drawn(figure(CHARTS[name])), drawn(figure(CHARTS[name]))
    assert first == second and set(first) == {"svg", "png"}
    assert first["svg"].startswith(b"<?xml") and b"<dc:date>" not in first["svg"]
    image = np.asarray(Image.open(io.BytesIO(first["png"])).convert("L"))
    assert (image < 128).any() and image.shape[1] > 100


@pytest.mark.parametrize(("low", "stops"), [(0.0, SHARE), (-1.0, SIGNED)])
def test_the_ends_of_a_grid_have_the_colours_of_the_page(low: float, stops: list[str]) -> None:
    maps = np.stack([np.full((16, 16), v) for v in (low, 1.0)])[None]
    chart = Grid(maps, ("kernel",), ("a", "b"), "kernel", "class", "share", (0,), low, 1.0)
    image = np.asarray(Image.open(io.BytesIO(drawn(figure(chart))["png"])).convert("RGB"))
    for end in (stops[0], stops[-1]):
        assert (image == np.round(255 * rgb(end)).astype(np.uint8)).all(axis=2).sum() > 1000


def test_a_style_of_the_reader_changes_nothing(tmp_path: Path) -> None:
    import matplotlib as mpl

    plain = drawn(figure(CHARTS["lines"]))
    with mpl.rc_context({"font.size": 20, "lines.linewidth": 9}):
        assert drawn(figure(CHARTS["lines"])) == plain
        assert mpl.rcParams["font.size"] == 20


@pytest.mark.parametrize("name", CHARTS)
def test_csv_and_json_hold_the_same_rows(name: str, tmp_path: Path) -> None:
    made = figure(CHARTS[name])
    paths = write_figure(made, tmp_path, MADE_OF)
    assert [p.suffix for p in paths] == [".svg", ".png", ".csv", ".json"]
    body = json.loads(paths[3].read_text())
    assert body["rows"] == made.rows and body["caption"] == made.caption and body["schema"] == "jettison.explain/1"
    found = list(csv.DictReader(io.StringIO(paths[2].read_text())))
    assert len(found) == len(made.rows)
    for row, expected in zip(found, made.rows, strict=True):
        assert {k: v for k, v in row.items() if v} == {k: str(v) for k, v in expected.items()}


def test_names_inside_models_are_never_paths_markup_formulas_or_controls(tmp_path: Path) -> None:
    charts = [grouped(HOSTILE), Lines((Series(HOSTILE, y(2), y(2)),), HOSTILE, HOSTILE)]
    charts.append(Boxes(({"layer": HOSTILE, "op": HOSTILE, "output": "", "params": 3, "macs": 4},)))
    made = [figure(c, about=f"{HOSTILE}{i}", word=HOSTILE) for i, c in enumerate(charts)]
    made.append(Figure("classes", HOSTILE, "Source", HOSTILE, charts[0], table=({HOSTILE: HOSTILE},)))
    for m in made:
        for path in write_figure(m, tmp_path / ".", MADE_OF):
            assert path.parent == tmp_path and path.exists()
    write_pages(made, {HOSTILE: HOSTILE}, tmp_path, MADE_OF, HOSTILE)
    page = (tmp_path / "index.html").read_text()
    assert "<script" not in page and "\x1b" not in page and "{{ 7*7 }}" in page
    assert len(list(tmp_path.iterdir())) == 4 * len(made) + 2
    assert "\n=" not in as_csv([{"a": HOSTILE}]) and as_csv([{"a": "=1"}]).splitlines()[1] == "'=1"


def test_file_names_of_different_layers_differ() -> None:
    names = ["a/b", "a-b", "a b", "x" * 200, "x" * 201, ".", "..", "", "é", "è", "a.b"]
    found = {stem("unit", n) for n in names}
    assert len(found) == len(names) and all(len(f) < 100 and "/" not in f for f in found)


def test_nothing_is_replaced_without_force(tmp_path: Path) -> None:
    made = figure(CHARTS["grouped"])
    check_folder(tmp_path / "new", ["unit-dense1"], False)
    first = write_figure(made, tmp_path, MADE_OF)
    before = [p.read_bytes() for p in first]
    for attempt in (
        lambda: write_figure(figure(CHARTS["lying"]), tmp_path, MADE_OF),
        lambda: check_folder(tmp_path, ["unit-dense1"], False),
    ):
        with pytest.raises(UsageError, match="--force"):
            attempt()
    assert [p.read_bytes() for p in first] == before
    write_figure(figure(CHARTS["lying"]), tmp_path, MADE_OF, force=True)
    assert first[2].read_bytes() != before[2]
    assert {p.suffix for p in tmp_path.iterdir() if p.is_file()} == {".svg", ".png", ".csv", ".json"}


def test_the_page_shows_every_figure_and_says_what_is_left_out(tmp_path: Path) -> None:
    made = [figure(CHARTS["grouped"], about=a) for a in ("dense1", "dense2")]
    write_pages(made, {"samples": "there are none"}, tmp_path, MADE_OF, "Title")
    page, listed = (tmp_path / "index.html").read_text(), json.loads((tmp_path / "figures.json").read_text())
    for entry in listed["figures"]:
        assert f'src="{entry["stem"]}.svg"' in page and all(f'href="{f}"' in page for f in entry["files"])
    assert "samples: there are none" in page and listed["left_out"] == {"samples": "there are none"}
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize("rows", [MOST_ROWS, MOST_ROWS + 1])
def test_the_page_folds_long_tables_and_cuts_long_cells_which_the_csv_has(rows: int, tmp_path: Path) -> None:
    long = "7 " * MOST_LETTERS
    table = tuple({"row": i, "kernels": long} for i in range(rows))
    made = Figure("findings", "Findings", "Source", "Caption", CHARTS["grouped"], table=table)
    paths = write_figure(made, tmp_path, MADE_OF)
    write_pages([made], {}, tmp_path, MADE_OF, "Title")
    page = (tmp_path / "index.html").read_text()
    assert ("<details>" in page) == (rows > MOST_ROWS)
    assert page.count("<tr>") == rows + 1 and long not in page and f"({len(long):,} letters)" in page
    assert paths[2].read_text().count(long) == rows


def test_an_origin_names_its_inputs_by_their_content() -> None:
    model = network("mlp")
    x = samples(model.inputs, 4)
    hashed = [
        origin(model, [Samples("s", inputs, labels)], {})["data"][0]["sha256"]
        for inputs, labels in (
            (x, None),
            (x, np.zeros(4, np.int64)),
            (x, np.ones(4, np.int64)),
            ({k: v + 1 for k, v in x.items()}, None),
        )
    ]
    assert len(set(hashed)) == 4
    assert origin(model, [], {})["model"]["sha256"] == model.sha256
