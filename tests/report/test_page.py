"""Laws of the report page: nothing from a model file becomes markup, nothing is loaded, nothing missing is hidden."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.errors import BadInput
from toolchain.report import charts, page
from toolchain.report.rounds import rounds_view

SAMPLE = json.loads((Path(__file__).parent / "sample_report.json").read_text("utf-8"))
VOID = {"meta", "br", "link", "img", "input", "hr"}
HOSTILE = "<script>alert(1)</script>\n|=cmd()'\"><img src=x onerror=a>{{ 7*7 }}\u202e\x1b[2J../\ud800" + "y" * 300
SLIM = copy.deepcopy(SAMPLE)  # few scores: for the laws that render once for every field
for _layer in SLIM["ranking"]["layers"]:
    _layer |= {"scores": _layer["scores"][::97], "kept": _layer["kept"][::97]}
SKIPPED = {"scores", "kept"}  # thousands of numbers: their own tests


class Reader(HTMLParser):
    """Text, tags and attributes of a page; fails where a tag is closed that was not open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"[ \n]+", " ", "".join(self.words).replace("\u00a0", " "))


def report(**parts: Any) -> dict[str, Any]:
    return copy.deepcopy(SAMPLE) | parts


def read(given_report: dict[str, Any]) -> Reader:
    return Reader(page.render(given_report))


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all fields that are no records; of a list of records, the first record stands for all."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:1])
    for key, inner in items:
        if key in SKIPPED or not isinstance(inner, (dict, list)):
            yield (*path, key)
        else:
            yield from leaves(inner, (*path, key))


def lists(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value[:1]):
        if isinstance(inner, list):
            yield (*path, key)
        if isinstance(inner, (dict, list)) and key not in SKIPPED:
            yield from lists(inner, (*path, key))


def with_field(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(SLIM)
    inner: Any = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


FIELDS = [path for path in leaves(SAMPLE) if path != ("schema",)]


def field(path: tuple[Any, ...]) -> Any:
    inner: Any = SAMPLE
    for key in path:
        inner = inner[key]
    return inner


def name_of(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


# The page as a whole.


def test_the_page_is_balanced_html_with_every_section() -> None:
    reader = read(report())
    ids = [attrs["id"] for tag, attrs in reader.tags if "id" in attrs]
    links = [attrs["href"] for tag, attrs in reader.tags if tag == "a"]
    assert len(ids) == len(set(ids))
    assert {link.removeprefix("#") for link in links if link} <= set(ids)
    assert [tag for tag, _ in reader.tags][:2] == ["html", "head"]


def test_the_same_report_gives_the_same_bytes_and_is_not_changed() -> None:
    given_report = report()
    assert page.render(given_report) == page.render(report())
    assert given_report == SAMPLE


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    html = page.render(report())
    reader = Reader(html)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|javascript:|data:", html)
    assert not {tag for tag, _ in reader.tags} & {"script", "link", "img", "iframe", "object", "embed", "use", "image"}
    loading = {"src", "srcset", "xlink:href", "data", "action", "background", "poster"}
    for tag, attrs in reader.tags:
        assert not loading & set(attrs)
        assert not any(name.startswith("on") for name in attrs)
        assert (attrs.get("href") or "#").startswith("#"), tag
    assert "default-src 'none'" in html


def test_colours_follow_the_reader_and_print_is_light() -> None:
    html = page.render(report())
    assert "@media screen and (prefers-color-scheme: dark)" in html
    assert "@media print" in html


@pytest.mark.parametrize(
    "path", [p for p in FIELDS if isinstance(field(p), str) or p[-1] in ("class", "limit")], ids=name_of
)
def test_a_hostile_text_stays_text(path: tuple[Any, ...]) -> None:
    html = page.render(with_field(path, HOSTILE))
    html.encode()
    reader = Reader(html)
    assert "<script" not in html and "<img" not in html
    assert "\x1b" not in html and "\u202e" not in html and "49\\u202e" not in html
    assert not any(name.startswith("on") for _, attrs in reader.tags for name in attrs)


def test_hostile_host_keys_and_arguments_stay_text() -> None:
    html = page.render(report(host={HOSTILE: HOSTILE}, arguments=["jettison", HOSTILE]))
    Reader(html)
    assert "<script" not in html and "\x1b" not in html


@pytest.mark.parametrize("path", FIELDS, ids=name_of)
def test_any_field_may_be_null(path: tuple[Any, ...]) -> None:
    assert not re.search(r"\bNone\b", read(with_field(path, None)).text)


@pytest.mark.parametrize("path", list(lists(SAMPLE)), ids=name_of)
def test_any_list_may_be_empty(path: tuple[Any, ...]) -> None:
    read(with_field(path, []))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("path", [p for p in FIELDS if isinstance(field(p), float)], ids=name_of)
def test_a_number_may_be_nan_or_infinite(path: tuple[Any, ...], value: float) -> None:
    read(with_field(path, value))


@pytest.mark.parametrize(
    "part",
    ["ranking", "plan", "verify", "host", "tool", "accuracy", "deviation", "drift", "emitted", "bench", "checks"],
)
def test_any_part_but_the_models_may_be_null(part: str) -> None:
    read(report(**{part: None}))


def test_what_is_missing_is_said() -> None:
    empty = report(
        ranking=None, verify=None, accuracy=[], emitted=[], bench=[], checks=[], stages=[], host={}, exit_code=None
    )
    empty["plan"] |= {"groups": [], "frozen": []}
    text = read(empty).text
    for words in (
        "Incomplete", "No labels given, accuracy not measured", "The proof was not run", "No file was written",
        "No ranking was made", "No latency was taken", "No limits were configured", "No group was planned",
        "Nothing is recorded as protected", "No stage times", "The host was not recorded", "No exit code was recorded",
    ):  # fmt: skip
        assert words in text


def test_a_report_of_another_schema_or_without_a_field_is_refused() -> None:
    with pytest.raises(BadInput, match=r"jettison\.report/2"):
        page.render(report(schema="jettison.report/2"))
    lacking = report()
    del lacking["verify"]["tolerance"]
    with pytest.raises(BadInput, match="tolerance"):
        page.render(lacking)


# The verdict.


def verdict(given_report: dict[str, Any]) -> str:
    html = page.render(given_report)
    found = re.search(r'<p class="verdict (\w+)">', html)
    assert found
    return found[1]


def test_everything_right_is_passed() -> None:
    assert verdict(report()) == "passed"


def test_any_failure_fails_the_page_and_is_named() -> None:
    for part, at, change, words in (
        ("verify", None, {"passed": False}, "does not compute what the masked original computes"),
        ("emitted", 1, {"passed": False}, "1 of 3 differ from the compressed network: out/model.tflite"),
        ("checks", 1, {"passed": False, "message": "5 MiB of 4 MiB"}, "1 of 5 failed. ram: 5 MiB of 4 MiB"),
    ):
        failing = report()
        (failing[part] if at is None else failing[part][at]).update(change)
        assert verdict(failing) == "failed"
        assert words in read(failing).text
    for code, words in page.EXIT_CODES.items():
        assert verdict(report(exit_code=code)) == ("failed" if code else "passed")
        assert f"Exit code {code}: {words}." in read(report(exit_code=code)).text


def test_a_failed_proof_claims_nothing() -> None:
    assert "the surgery is right" in read(report()).text
    assert "the surgery is right" not in read(report(verify=SAMPLE["verify"] | {"passed": False})).text


def test_what_was_not_proved_does_not_pass() -> None:
    for proof in (None, SAMPLE["verify"] | {"passed": None}, SAMPLE["verify"] | {"samples": 0}):
        assert verdict(report(verify=proof)) == "open"


def test_a_failure_weighs_more_than_a_missing_proof() -> None:
    assert verdict(report(verify=None, exit_code=1)) == "failed"


def test_reasons_that_moved_are_said_and_a_class_without_samples_is_blank() -> None:
    text = read(report()).text
    assert "The reasons moved" in text and "0.31 on 64 samples, while 98.4 % of the answers stayed" in text
    assert re.search(r"drill hole ?0 ?– ?– ?–", text)
    assert "The reasons moved" not in read(report(drift=SAMPLE["drift"] | {"rank_correlation": 0.9})).text


def test_why_explanations_were_not_compared_is_said() -> None:
    why_not = SAMPLE["drift"] | {"why_not": "Loop 'l' has no gradient rule", "n": 0, "rank_correlation": None}
    assert "Not compared: Loop 'l' has no gradient rule." in read(report(drift=why_not)).text
    without = report()
    del without["drift"]
    assert "Explanation drift" not in read(without).text


def test_a_result_slower_than_its_original_is_said() -> None:
    slow = report()
    slow["bench"][1]["ns"] |= {"p50": 40_000_000, "p90": 41_000_000}
    assert "Slower than the original with onnxruntime on local: 1.22× slower" in read(slow).text
    assert "Slower than the original" not in read(report()).text


def test_a_difference_within_the_noise_is_called_so() -> None:
    same = report()
    same["bench"][1]["ns"] |= {"p50": 32_900_000}
    text = read(same).text
    assert "within the noise" in text and "Slower than the original" not in text


def test_without_labels_the_page_tells_how_far_the_answers_are() -> None:
    text = read(report(accuracy=[])).text
    assert "No labels given" in text
    assert re.search(r"unlabelled\.npz\s*400\s*31\.0 %\s*4\.2", text)


def test_a_large_completeness_gap_is_said() -> None:
    wide = report()
    wide["ranking"]["completeness_gap"] = 0.061
    assert "completeness gap is 6.1 %, above 5.0 %" in read(wide).text


# The figures on the page are those of the report.


def test_the_pages_figures_are_the_reports() -> None:
    text = read(report()).text
    for model in SAMPLE["models"].values():
        assert f"{model['params']:,}" in text
        assert model["sha256"] in text
        assert page.size(model["bytes"]).replace("\u00a0", " ") in text
        assert page.macs(model["macs"]).replace("\u00a0", " ") in text
    for group in SAMPLE["plan"]["groups"]:
        assert f"{group['before']:,} → {group['after']:,}" in text
    for row in SAMPLE["bench"]:
        assert page.duration(row["ns"]["p50"]).replace("\u00a0", " ") in text
    for row in SAMPLE["accuracy"]:
        assert f"{100 * row['after_recover']:.1f} %" in text
    assert "1.1 × 10⁻⁶" in text and "2.4 × 10⁻⁷" in text and "64 / 64" in text
    assert "58,301,829 → 3,841,485 parameters" in text and "−93.4 %" in text


def test_latencies_are_compared_only_within_runtime_target_threads_and_grade() -> None:
    text = read(report()).text
    assert "1.93× faster" in text  # 32.714 / 16.982 ms, onnxruntime
    assert "4.44× faster" in text  # 35.120 / 7.913 ms, litert
    alone = report(bench=[SAMPLE["bench"][0], SAMPLE["bench"][1] | {"grade": "estimated"}])
    assert "faster" not in read(alone).text.replace("faster or", "")


def test_grades_have_charts_of_their_own() -> None:
    text = read(report()).text
    assert text.index("Measured: local") < text.index("Counted: virtual-a53") < text.index("Estimated: gr740")


def test_a_frozen_reason_holds_all_its_parameters() -> None:
    text = read(report()).text
    assert "spatial axis of a convolution kernel · 10" in text
    for row in SAMPLE["plan"]["frozen"]:
        assert f"{row['parameter']} axis {row['axis']}" in text


# Numbers.

POSITIVE = st.floats(1.0, 1e17)


@given(st.integers(0, 10**18))
def test_a_count_reads_back_exactly(value: int) -> None:
    assert int(page.count(value).replace(",", "")) == value


@given(POSITIVE)
def test_a_scaled_number_reads_back_to_its_digits(value: float) -> None:
    for form, units, tolerance in (
        (page.size, {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}, 0.006),
        (page.macs, {"MAC": 1, "kMAC": 1e3, "MMAC": 1e6, "GMAC": 1e9, "TMAC": 1e12}, 0.0006),
        (page.duration, {"ns": 1, "µs": 1e3, "ms": 1e6, "s": 1e9}, 0.006),
    ):
        number, unit = form(value).split("\u00a0")
        shown = float(number.replace(",", "").replace("−", "-")) * units[unit]
        assert abs(shown - value) <= max(tolerance * value, 0.005)


@given(POSITIVE, POSITIVE)
def test_a_larger_number_never_reads_smaller(a: float, b: float) -> None:
    small, large = sorted((a, b))
    units = {"ns": 1, "µs": 1e3, "ms": 1e6, "s": 1e9}
    shown = [
        float(number.replace(",", "").replace("−", "-")) * units[unit]
        for number, unit in (page.duration(value).split("\u00a0") for value in (small, large))
    ]
    assert shown[0] <= shown[1] * (1 + 1e-12)


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (page.size(0), "0 B"), (page.size(1023), "1,023 B"), (page.size(2**20 - 1), "1.00 MiB"),
        (page.size(233_207_316), "222.4 MiB"), (page.macs(1_131_180_576), "1.131 GMAC"), (page.macs(5), "5 MAC"),
        (page.duration(32_714_000), "32.7 ms"), (page.duration(999_600), "1.00 ms"), (page.duration(750), "750 ns"),
        (page.seconds(12.4), "12.4 s"), (page.seconds(125), "2 min 5 s"), (page.seconds(59.97), "1 min 0 s"),
        (page.percent(0.8415), "84.2 %"), (page.percent(0.84153, 10_000), "84.15 %"), (page.percent(1), "100.0 %"),
        (page.percent(0.99996), "99.996 %"), (page.percent(0.0004), "0.04 %"), (page.percent(0), "0.0 %"),
        (page.change(100, 6.7), "−93.3 %"), (page.change(3, 3), "unchanged"), (page.change(0, 3), "–"),
        (page.change(100_000, 1), "−99.999 %"), (page.change(100, 0), "−100.0 %"), (page.change(None, 3), "–"),
        (page.change(10_000, 10_001), "+0.01 %"), (page.points(0.884, 0.866), "−1.8 points"),
        (page.points(0.5, 0.5), "unchanged"), (page.faster(2, 1), "2.00× faster"), (page.faster(1, 2), "2.00× slower"),
        (page.faster(1000, 1001), "as fast"), (page.faster(None, 1), "–"), (page.shape(["N", 3, None]), "[N, 3, ?]"),
        (page.interval(0.5, 10), "23.7–76.3 %"), (page.interval(None, 10), "no interval"),
        (page.moment("2026-11-20T13:20:11+00:00"), "2026-11-20 13:20:11 UTC"), (page.moment("yesterday"), "yesterday"),
        (charts.sig(2.4e-7), "2.4 × 10⁻⁷"), (charts.sig(1e-5), "1 × 10⁻⁵"), (charts.sig(-0.031), "−0.031"),
        (charts.sig(0.0), "0"), (charts.sig(123456.0), "1.2 × 10⁵"),
        (page.told(page.count)(None), "–"), (page.told(page.percent)(math.nan), "not a number"),
        (page.told(page.size)(math.inf), "infinite"), (page.figure(True), "yes"), (page.figure(1234.5), "1,234"),
    ],
)  # fmt: skip
def test_numbers_are_written_so(shown: str, wanted: str) -> None:
    assert shown.replace("\u00a0", " ") == wanted


@given(st.integers(1, 5000), st.data())
def test_a_wilson_interval_holds_its_share_and_solves_its_equation(n: int, data: st.DataObject) -> None:
    share = data.draw(st.integers(0, n)) / n
    ends = page.wilson(share, n)
    assert ends
    assert 0 <= ends[0] <= share + 1e-12 and share - 1e-12 <= ends[1] <= 1
    for end in ends:  # the definition: |share − end| = z √(end (1 − end) / n), or the end of the scale
        at_limit = end in (0.0, 1.0) and share in (0.0, 1.0)
        assert at_limit or math.isclose((share - end) ** 2, 1.959964**2 * end * (1 - end) / n, abs_tol=1e-9)


# Charts.


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.booleans()), max_size=200))
def test_a_histogram_draws_every_unit_once(units: list[tuple[float, bool]]) -> None:
    html = charts.histogram("t", "d", [score for score, _ in units], [kept for _, kept in units])
    Reader(html)
    kept, removed = (sum(map(int, re.findall(rf"(\d+) {word}", html))) for word in ("kept", "removed"))
    assert kept == sum(stays for _, stays in units)
    assert kept + removed == len(units)


@given(st.floats(1e-9, 1e15))
def test_ticks_are_few_round_and_inside(top: float) -> None:
    marks = charts.ticks(top)
    assert marks[0] == 0 and 2 < len(marks) <= 6
    assert marks[-1] <= top * (1 + 1e-9) < marks[-1] + 1.01 * marks[1]


def test_a_chart_is_named_and_described() -> None:
    reader = read(report())
    shown = [attrs for tag, attrs in reader.tags if tag == "svg" and "aria-hidden" not in attrs]
    assert shown and all(attrs["role"] == "img" for attrs in shown)
    assert sum(tag == "desc" for tag, _ in reader.tags) == len(shown)


def test_marks_never_leave_their_chart() -> None:
    html = charts.strip("t", "d", [[charts.Mark(-1, 7, "kept"), charts.Mark(0.2, 9, "ink", "", "whisker")]])
    assert all(0 <= float(share) <= 100 for share in re.findall(r'"([-\d.]+)%"', html))


def test_dead_units_are_counted_and_not_drawn() -> None:
    layer = {
        "group": "g",
        "cut": "g",
        "units": 5,
        "dead": 2,
        "scores": [0.0, 0.0, 0.0, 1.0, 2.0],
        "kept": [0, 0, 1, 1, 1],
    }
    drawn = report()
    drawn["ranking"]["layers"] = [layer]
    html = page.render(drawn)
    assert "3 of 5 kept · 2 dead" in html
    tile = html[html.index("Scores of g") :].split("</svg>")[0]
    assert sum(map(int, re.findall(r"(\d+) kept,", tile))) == 3
    assert sum(map(int, re.findall(r", (\d+) removed", tile.split("</desc>")[1]))) == 0


# Rounds.


def test_rounds_tell_what_was_cut_proven_and_undone() -> None:
    text = read(report()).text
    assert "Judged by accuracy on test.npz, at least 80.0 %" in text
    assert "2 undoneparams<=7%6.7 %18.6 %passed, 4 × 10⁻⁷74.0 %" in text
    assert "Stopped before the budget: accuracy on test.npz fell to 74 %, below 80 %" in text
    assert "Retraining, taught by the original" in text and "1 epoch: no better in 2 epochs" in text


def test_a_cut_at_once_has_no_rounds() -> None:
    given_report = report(retraining=None)
    given_report["schedule"] |= {"judge": None, "stopped": "", "rounds": given_report["schedule"]["rounds"][:1]}
    reader = read(given_report)
    assert "Rounds" not in reader.text and ("a", {"href": "#rounds"}) not in reader.tags


def test_the_curve_of_rounds_ends_at_the_original_and_leaves_out_what_was_undone() -> None:
    rounds = SAMPLE["schedule"]["rounds"]
    drawn = str(rounds_view(SAMPLE["schedule"])["round_chart"])
    for of in rounds:
        assert (f"round {of['round']}: {100 * of['judged']:.0f}" in drawn.replace("84.8", "85")) is not of["undone"]
    assert "the original: 85.2" in drawn and "100.00%" in drawn
