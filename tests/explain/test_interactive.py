"""The page of an atlas: its numbers are the arrays, its size is bounded, and in Chromium it does what its keys say."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from explain.atlases import ALWAYS, DEAD, HOSTILE, atlas, html, kernels
from explain.browser import CHROMIUM, Browser, browser
from PIL import Image

from toolchain.errors import Unsupported
from toolchain.explain import interactive
from toolchain.explain.atlas import Atlas
from toolchain.explain.occurrence import class_selectivity, maps


class Parsed(HTMLParser):
    """Open tags, whether all were closed, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [str(v) for k, v in attrs if k in ("src", "href")]
        assert not any(k.startswith("on") for k, _ in attrs)
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)


def embedded(chart: Atlas) -> dict:
    return json.loads(Parsed(html(chart)).scripts[0])


def unpacked(text: str, kind: str, *shape: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind).reshape(shape)


# ---- the file --------------------------------------------------------------------------------------------------------
def test_the_numbers_on_the_page_are_the_arrays() -> None:
    chart = atlas()
    data = embedded(chart)
    assert data["classes"] == list(chart.classes) and data["samples"] == chart.layers[0].occurrence.samples.tolist()
    for found, given in zip(data["layers"], chart.layers, strict=True):
        k, c, *positions = given.occurrence.counts.shape
        size = (*(1, 1), *positions)[-2:]
        shown = unpacked(found["maps"], "u1", k, c, *size) / 255
        exact = maps(given.occurrence).reshape(k, c, *size)
        seen = given.occurrence.seen
        assert np.abs(shown - exact)[:, seen].max() <= 0.5 / 255 + 1e-12 and not shown[:, ~seen].any()
        s = class_selectivity(given.occurrence).reshape(k, c, -1).mean(axis=2)
        for name, expected in (("occurrence", exact.mean(axis=(2, 3))), ("selective", s)):
            np.testing.assert_allclose(unpacked(found[name], "<f4", k, c), expected, rtol=1e-6, atol=1e-7)
        pairs = [(a, b) for a in np.flatnonzero(seen) for b in np.flatnonzero(seen) if a != b]
        np.testing.assert_allclose(
            unpacked(found["selectivity"], "<f4", k), sum(np.abs(s[:, a] - s[:, b]) for a, b in pairs), rtol=1e-6
        )  # eq. 4, term by term
        assert sorted(found["order"]) == list(range(k)) and found["name"] == given.layer
        most = found["top"]["most"]
        assert found["top"]["samples"] == given.top.samples.ravel().tolist()
        np.testing.assert_array_equal(unpacked(found["top"]["values"], "<f4", k, most), given.top.values)
        levels = unpacked(found["top"]["maps"], "u1", k, most, *size) / 255
        assert (
            np.abs(levels * given.top.values[..., None, None] - given.top.maps).max()
            <= 0.51 / 255 * given.top.values.max()
        )
        if given.attributed is None:
            assert found["attributed"] is None
        else:
            for name, expected in vars(given.attributed).items():
                np.testing.assert_array_equal(
                    unpacked(found["attributed"][name], "<f4", *expected.shape), expected.astype(np.float32)
                )


def test_images_are_those_of_the_samples_that_are_named() -> None:
    chart = atlas(shape=(3, 8, 6))
    images = embedded(chart)["images"]
    named = {n for layer in chart.layers for n in layer.top.samples.ravel().tolist()} - {-1}
    assert images["numbers"] == sorted(named)
    pixels = unpacked(images["pixels"], "u1", len(named), images["height"], images["width"], 3)
    x = chart.samples.inputs["x"][sorted(named)].transpose(0, 2, 3, 1)
    assert np.abs(pixels / 255 - x).max() <= 0.51 / 255


def test_samples_that_are_no_images_are_named_but_not_drawn() -> None:
    data = embedded(atlas(shape=(7,)))
    assert data["images"] is None and data["layers"][0]["top"]["most"] == 3


def test_a_page_holds_no_address_no_handler_and_only_its_own_scripts() -> None:
    text = html(atlas())
    parsed = Parsed(text)
    assert parsed.addresses == ["index.html"] and "http" not in text.replace("http-equiv", "")
    assert parsed.tags.count("script") == 2 and "img" not in parsed.tags
    digest = base64.b64encode(hashlib.sha256(parsed.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text and "default-src 'none'" in text
    assert html(atlas()) == text


def test_512_kernels_keep_every_position_and_a_larger_layer_is_pooled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert interactive.MAPS >= 512 * 10 * 28 * 28
    names = tuple(f"class {i}" for i in range(10))
    chart = atlas(kernels(16, (28, 28), classes=names))
    whole = embedded(chart)["layers"][0]
    monkeypatch.setattr(interactive, "MAPS", 16 * 10 * 27 * 27)
    layer = embedded(chart)["layers"][0]
    assert (whole["block"], whole["shown"]) == (1, [28, 28])
    assert (layer["block"], layer["shown"], layer["size"]) == (2, [14, 14], [28, 28])
    given = maps(chart.layers[0].occurrence)[7, 3].reshape(14, 2, 14, 2).mean(axis=(1, 3))
    shown = unpacked(layer["maps"], "u1", 16, 10, 14, 14)[7, 3] / 255
    assert np.abs(shown - given).max() <= 0.51 / 255


@pytest.mark.parametrize("k", [12, 300])
def test_what_a_page_embeds_is_bounded(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"MAPS": 6000, "ACTIVATIONS": 4000, "IMAGES": 6000}
    for name, most in limits.items():
        monkeypatch.setattr(interactive, name, most)
    data = embedded(atlas(kernels(k, (16, 16)), shape=(1, 64, 64)))
    (layer,) = data["layers"]
    assert len(base64.b64decode(layer["maps"])) <= limits["MAPS"]
    assert len(base64.b64decode(layer["top"]["maps"])) <= limits["ACTIVATIONS"]
    assert data["images"] is None or len(base64.b64decode(data["images"]["pixels"])) <= limits["IMAGES"]
    monkeypatch.setattr(interactive, "MAPS", 4 * k - 1)
    with pytest.raises(Unsupported, match="do not fit on a page"):
        html(atlas(kernels(k)))


def test_a_row_of_numbers_for_each_kernel() -> None:
    chart = atlas()
    rows = chart.rows()
    assert [(r["layer"], r["kernel"]) for r in rows] == [(l.layer, k) for l in chart.layers for k in range(len(l))]
    assert rows[DEAD]["findings"] == "dead" and rows[DEAD]["top samples"] == "" and rows[7]["findings"] == "redundant"
    s = class_selectivity(chart.layers[0].occurrence).mean(axis=(2, 3))
    assert [r["most selective for"] for r in rows[:12]] == [chart.classes[int(np.nanargmax(row))] for row in s]


# ---- in a browser ----------------------------------------------------------------------------------------------------
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    with browser() as made:
        yield made
        assert made.complaints == []
        assert {address.split(":")[0] for address in made.loads} <= {"file", "about"}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("page") / "occurrence page.html"
    found.write_text(html(atlas()), encoding="utf-8")
    return found


def shown(tab: Browser) -> list[int]:
    """Kernels in the list, from the top."""
    return tab.ask("kernels")


@needs_chromium
@pytest.mark.parametrize("c", [0, 1, 3])
def test_selectivity_in_the_browser_is_equation_3(tab: Browser, path: Path, c: int) -> None:
    tab.open(path)
    first = atlas().layers[0]
    exact = class_selectivity(first.occurrence)
    for k in (0, DEAD, ALWAYS, 11):
        found = tab.ask(f"[...selectivityMap(layer, {k}, {c})]")
        assert np.abs(np.array(found) - exact[k, c].ravel()).max() <= 2 / 255  # maps are bytes there
    largest = np.nanmax(np.abs(exact))
    assert abs(tab.ask("layer.scale") - largest) <= 2 / 255


@needs_chromium
def test_every_order_is_that_of_its_values(tab: Browser, path: Path) -> None:
    first = atlas().layers[0]
    given = first.attributed
    assert given is not None
    expected = {
        "clustered": first.order, "index": np.arange(12), "selectivity": np.argsort(-first.selectivity, kind="stable"),
        "class": np.argsort(-first.mean_selectivity[:, 1], kind="stable"),
        "occurrence": np.argsort(-first.mean_occurrence[:, 1], kind="stable"),
        "rank": np.argsort(-given.rank), "attribution": np.argsort(-given.expected[:, 1]),
    }  # fmt: skip
    tab.open(path)
    assert set(tab.ask("Object.keys(SORTS)")) == set(expected)
    for name, order in expected.items():
        tab.open(path, f"sort={name}&class=1")
        assert shown(tab) == order.tolist(), name
        assert tab.ask("$('sort').value") == name
    tab.open(path, "layer=" + tab.ask("encodeURIComponent(page.layers[1].name)") + "&sort=rank")
    assert tab.ask("state.sort") == "clustered" and "rank" not in tab.ask("sortsOf(layer)")  # it was not ranked


@needs_chromium
def test_an_address_restores_what_was_seen_and_a_wrong_one_the_beginning(tab: Browser, path: Path) -> None:
    tab.open(path, "layer=conv1&kernel=7&sort=index&map=selective&class=1&show=redundant&size=large")
    state = {
        "layer": "conv1",
        "kernel": 7,
        "sort": "index",
        "map": "selective",
        "class": 1,
        "show": "redundant",
        "size": "large",
    }
    assert tab.ask("state") == state
    assert (
        shown(tab) == [1, 7, 9] and tab.ask("document.querySelector('#kernel h2').textContent") == "Kernel 7 of conv1"
    )
    assert tab.ask("[...document.querySelectorAll('.row[aria-selected=true]')].map((r) => r.dataset.kernel)") == ["7"]
    tab.open(path, "layer=nothing&kernel=99999&sort=constructor&map=x&class=-1&show=<script>&size=huge")
    order = atlas().layers[0].order
    assert tab.ask("[state.layer, state.kernel, state.sort, state.show, state.class]") == [
        "conv1", int(order[0]), "clustered", "all", 0
    ]  # fmt: skip


@needs_chromium
def test_a_click_picks_a_kernel_and_a_class(tab: Browser, path: Path) -> None:
    tab.open(path, "sort=index")
    tab.click(".row[data-kernel='5']")
    assert tab.ask("state.kernel") == 5 and "kernel=5" in tab.ask("location.hash")
    text = tab.ask("$('kernel').innerText")
    assert "always-on" in text and "fires everywhere" in text and "100 %" in text
    tab.click(".head[data-class='3']")
    assert tab.ask("[state.sort, state.class]") == ["class", 3]
    tab.click("#findings-count")
    tab.click("#findings a[href*='show=redundant']")
    tab.until("state.show === 'redundant'")
    assert shown(tab) == [7, 1, 9] or sorted(shown(tab)) == [1, 7, 9]


@needs_chromium
def test_it_is_worked_by_keys_alone_however_fast_they_come(tab: Browser, path: Path) -> None:
    tab.open(path, "sort=index")
    for keys, expected in (
        (["ArrowDown", "ArrowDown", "j"], 3),
        (["ArrowUp", "k"], 1),
        (["End"], 11),
        (["ArrowDown"], 11),
        (["Home"], 0),
        (["PageDown", "PageUp"], 0),
    ):
        for key in keys:
            tab.press(key)
        assert tab.ask("state.kernel") == expected, keys
    tab.press("PageDown")
    assert tab.ask("state.kernel") > 1
    tab.ask(
        "for (const key of 'mjjf') document.body.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }))"
    )  # at once: no event of the address comes between
    assert tab.ask("[state.map, state.show]") == ["selective", "dead"] and shown(tab) == [DEAD]
    tab.until("location.hash.includes('show=dead')")
    for key in "fff>s":
        tab.press(key)
    assert tab.ask("[state.show, state.class, state.sort]") == ["all", 1, "selectivity"]
    tab.press("]")
    assert tab.ask("state.layer") == HOSTILE
    tab.press("[")
    tab.press("/")
    tab.press("9")
    tab.press("Tab")
    tab.until("state.kernel === 9")
    tab.press("/")
    tab.press("Escape")
    assert tab.ask("document.activeElement.id") == "list"


@needs_chromium
def test_names_are_text_wherever_they_stand(tab: Browser, path: Path) -> None:
    tab.open(path)
    tab.press("]")
    assert tab.ask("document.title") == HOSTILE and tab.ask("document.scripts.length") == 2
    assert tab.ask("document.images.length") == 0
    for place in ("h1", "#kernel h2 span", "#layer", "#class", ".head[data-class='1']", "table", "footer"):
        assert "<script>document.title='gone'</script>" in tab.ask(f'document.querySelector("{place}").textContent')


@needs_chromium
def test_a_kernel_shows_its_numbers_for_each_class(tab: Browser, path: Path) -> None:
    tab.open(path, "kernel=7")
    first = atlas().layers[0]
    assert first.attributed is not None
    cells = tab.ask("[...document.querySelectorAll('tbody tr')].map((r) => [...r.cells].map((c) => c.textContent))")
    number = lambda text: float(text.replace("−", "-").replace("%", "").replace("+", ""))
    assert [row[0] for row in cells] == list(first.occurrence.classes) and cells[2][1:4] == ["none", "–", "–"]
    for c in (0, 1, 3):
        n, active, selective, expected, own = map(number, cells[c][1:])
        assert n == first.occurrence.samples[c] and abs(active - 100 * first.mean_occurrence[7, c]) <= 0.5
        assert abs(selective - first.mean_selectivity[7, c]) <= 0.005
        np.testing.assert_allclose(
            [expected, own], [first.attributed.expected[7, c], first.attributed.own[7, c]], rtol=5e-3
        )
    tiles = tab.ask("[...document.querySelectorAll('#kernel figcaption span')].map((s) => s.textContent)")
    assert [int(t.split()[1]) for t in tiles[3:]] == first.top.samples[7].tolist()
    tab.open(path, f"kernel={DEAD}")
    assert "None activates it." in tab.ask("$('kernel').innerText")


@needs_chromium
def test_thousands_of_kernels_make_few_elements_and_the_last_can_be_reached(tab: Browser, tmp_path: Path) -> None:
    names = tuple(f"class {i}" for i in range(200))
    large = tmp_path / "large.html"
    large.write_text(html(atlas(kernels(3000, (), classes=names))), encoding="utf-8")
    tab.open(large, "sort=index")
    tab.press("End")
    assert tab.ask("state.kernel") == 2999
    tab.until("rows.has(2999)")
    box = tab.ask("(() => { const r = rows.get(2999).getBoundingClientRect(), l = $('list').getBoundingClientRect();"
                  " return [r.top >= l.top, r.bottom <= l.bottom + 1]; })()")  # fmt: skip
    assert box == [True, True] and tab.ask("document.querySelectorAll('.row').length") < 100
    assert tab.ask("Math.max(...[...document.querySelectorAll('canvas')].map((c) => c.width))") <= 2 * 4096
    tab.ask("$('list').scrollTo(199 * cell(), 0)")
    tab.until("document.querySelector(\".head[data-class='199']\") && rows.has(0)")


@needs_chromium
def test_themes_differ_and_paper_is_light(tab: Browser, path: Path) -> None:
    tab.open(path, f"kernel={ALWAYS}&sort=index")
    seen = {}
    for theme, medium in (("light", "screen"), ("dark", "screen"), ("dark", "print")):
        tab.show_in(theme, medium)
        colours = "dark" if (theme, medium) == ("dark", "screen") else "light"
        tab.until(f"ramps.occurrence[255] === ramp(RAMPS.{colours}.occurrence)[255]")
        seen[theme, medium] = tab.ask("getComputedStyle(document.body).backgroundColor")
        if medium == "screen":
            image = np.asarray(Image.open(io.BytesIO(tab.screenshot())).convert("L"))
            assert (np.median(image) > 128) == (theme == "light")
    tab.show_in()
    assert seen["light", "screen"] != seen["dark", "screen"] and seen["dark", "print"] == seen["light", "screen"]


@needs_chromium
def test_what_is_drawn_is_the_map(tab: Browser, path: Path) -> None:
    """The canvas of a row, read back, has the colour of each position's value in its place."""
    tab.open(path, "sort=index&size=large")
    exact = maps(atlas().layers[0].occurrence)[8, 3]  # [6, 5] in a box of 71×71 that starts at 3 · 72
    ramp = np.array(tab.ask("[...ramps.occurrence]"), np.uint32).view(np.uint8).reshape(256, 4)
    canvas = "rows.get(8).querySelector('canvas')"
    read = f"[...{canvas}.getContext('2d').getImageData(3 * 72, 0, 71, 71).data]"
    pixels = np.array(tab.ask(read)).reshape(71, 71, 4)
    for i, j in np.ndindex(6, 5):
        level = round(255 * exact[i, j])
        near = ramp[max(0, level - 1) : level + 2].astype(int)
        assert np.abs(near - pixels[int((i + 0.5) * 71 / 6), int((j + 0.5) * 71 / 5)]).max(axis=1).min() <= 1


def test_the_scripts_are_plain_and_ask_for_nothing() -> None:
    script = "".join(interactive.asset(name) for name in interactive.SCRIPTS)
    for word in ("innerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch(", "XMLHttpRequest", "import"):
        assert not re.search(rf"\b{re.escape(word)}" if word[0].isalpha() else word, script), word
