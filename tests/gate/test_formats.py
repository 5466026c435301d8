"""Laws of formats: each is what its reader takes, and no name in it is anything but a name."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from gate.files import net, ran

from toolchain.cli.checking import FORMATS as CHOICES
from toolchain.cli.checking import QUANTITIES as SKIPPABLE
from toolchain.errors import printable
from toolchain.gate.formats import FORMATS, MARKER, RULES, rendered
from toolchain.gate.limits import QUANTITIES
from toolchain.gate.verdicts import Checked

HOSTILE = [
    "plain",
    "<script>alert(1)</script>",
    "a|b`c`\\",
    "line\nbreak\r\n::error::hidden",
    "::error file=x::y",
    "##[command]x",
    "\x1b]0;title\x07\x1b[2J",
    "@torvalds #1 [click](https://example.org) ![x](y)",
    '"><img src=x onerror=1>&amp;%0A::stop-commands::t',
    "]]>\u202eevil\ufffe",
    "=cmd()|' /C calc'!A0",
    "../../etc/passwd",
]


def checked(folder: Path, name: str) -> Checked:
    """A failed, a held and a skipped limit of a file and of layers with this name."""
    file = re.sub(r"[/\0]", "_", name) + ".onnx"
    net(folder / file, conv=f"conv {name}".replace("\ufffe", ""), dense=f"dense {name}".replace("\ufffe", ""))
    escaped = json.dumps(file)  # TOML's basic strings know JSON's escapes
    text = f"[[budget]]\nmodel = {escaped}\nparams = 5\nmacs = 5\nram = 1000\nlatency = {{ max = '1 s' }}\n"
    return ran(folder, text, skip=("latency",))


@pytest.fixture(params=HOSTILE, ids=range(len(HOSTILE)))
def told(request: pytest.FixtureRequest, tmp_path: Path) -> Checked:
    return checked(tmp_path, request.param)


def test_the_command_offers_every_format_and_quantity() -> None:
    """They are told apart, since help must not load what formats need."""
    assert tuple(FORMATS) == CHOICES and set(SKIPPABLE) == set(QUANTITIES) == set(RULES)


@pytest.mark.parametrize("form", FORMATS)
def test_no_format_hands_a_terminal_or_github_a_command(form: str, told: Checked) -> None:
    text = rendered(told, form)
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "##[" not in text
    if form != "github":
        assert not any(line.lstrip().startswith("::") for line in text.splitlines())


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_verdicts_are_the_same_bytes(form: str, told: Checked) -> None:
    assert rendered(told, form) == rendered(told, form)


def test_a_table_has_a_line_for_each_limit_and_each_failure(told: Checked) -> None:
    lines = rendered(told, "table").splitlines()
    assert [line.split()[0] for line in lines[2:6]] == ["ok", "FAILED", "FAILED", "skipped"]
    assert sum("jettison.toml:" in line for line in lines) == 2 and lines[-1].startswith("Run: jettison prune")


def test_json_holds_every_verdict(told: Checked) -> None:
    body = json.loads(rendered(told, "json"))
    assert body["schema"] == "jettison.check/1" and body["passed"] is False
    found = {c["quantity"]: c["status"] for c in body["checks"]}
    assert found == {"ram": "passed", "params": "failed", "macs": "failed", "latency": "skipped"}
    assert all(c["line"] > 2 and c["file"].endswith("jettison.toml") for c in body["checks"])
    assert {c["model"] for c in body["checks"]} == {told.verdicts[0].limit.model}


def test_junit_is_xml_whose_counts_are_its_cases(told: Checked) -> None:
    root = ElementTree.fromstring(rendered(told, "junit").encode())
    assert root.tag == "testsuites"
    (suite,) = root
    cases = suite.findall("testcase")
    for attributes in (root.attrib, suite.attrib):
        assert int(attributes["tests"]) == len(cases) == 4
        assert int(attributes["failures"]) == len(suite.findall("testcase/failure")) == 2
        assert attributes["errors"] == "0"
    assert int(suite.attrib["skipped"]) == len(suite.findall("testcase/skipped")) == 1
    assert {c.tag for c in root.iter()} == {"testsuites", "testsuite", "testcase", "failure", "skipped"}
    assert {c.attrib["classname"] for c in cases} == {printable(told.verdicts[0].limit.model)}


def required(record: dict[str, Any], *keys: str) -> None:
    assert set(keys) <= set(record), record


def test_sarif_has_what_its_standard_requires(told: Checked) -> None:
    """OASIS SARIF 2.1.0: sections 3.13, 3.14, 3.19, 3.27, 3.28, 3.29, 3.30, 3.49."""
    log = json.loads(rendered(told, "sarif"))
    required(log, "version", "runs")
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    required(driver, "name", "rules")
    assert len({r["id"] for r in driver["rules"]}) == len(driver["rules"])
    assert len(run["results"]) == 4
    for result in run["results"]:
        required(result, "message", "ruleId", "kind", "level")
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert (result["level"] == "none") == (result["kind"] != "fail")  # 3.27.10
        (place,) = (where["physicalLocation"] for where in result["locations"])
        address = place["artifactLocation"]["uri"]
        assert re.fullmatch(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+", address)
        assert unquote(address).endswith("jettison.toml") and place["region"]["startLine"] >= 1
        assert not re.search(r"(?<!\\)\[", result["message"]["text"])  # 3.11.6: brackets make links


class Tags(HTMLParser):
    """Every tag and comment of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.comments: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not attrs, attrs

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_markdown_is_a_table_in_which_names_are_text(told: Checked) -> None:
    markdown_it = pytest.importorskip("markdown_it", reason="needs markdown-it-py, which rich brings")
    text = rendered(told, "md")
    assert text.startswith(MARKER)  # what a bot finds its comment by
    page = Tags(markdown_it.MarkdownIt("commonmark").enable("table").render(text))
    assert page.tags == {"p", "strong", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"}
    assert len(page.comments) == 1
    said = "".join(page.texts)
    assert printable(told.verdicts[0].limit.model) in said.replace("\u200b", "")
    assert not re.search(r"(?<!\w)[@#]\w", said)  # a mention of somebody, or of an issue


def command(line: str) -> tuple[str, dict[str, str], str]:
    """A workflow command as GitHub's runner reads it (actions/toolkit, command.ts, backwards)."""
    match = re.fullmatch(r"::(\w+)((?: [^:]*)?)::(.*)", line)
    assert match is not None, line
    kind, properties, data = match.groups()
    pairs = dict(p.split("=", 1) for p in properties.strip().split(",") if p)
    undone = {
        k: v.replace("%3A", ":").replace("%2C", ",").replace("%0A", "\n").replace("%25", "%") for k, v in pairs.items()
    }
    return kind, undone, data.replace("%0A", "\n").replace("%25", "%")


def test_github_annotates_each_failure_at_its_line(told: Checked) -> None:
    found = [command(line) for line in rendered(told, "github").splitlines()]
    assert [kind for kind, _, _ in found] == ["error", "error", "warning", "notice"]
    for verdict, (_, where, text) in zip(told.failed, found, strict=False):
        assert where["line"] == str(verdict.limit.line) and where["file"] == printable(str(verdict.limit.file))
        assert "##[" not in text and "is allowed" in text and "Run: jettison" in text


def test_github_action_benchmark_takes_smaller_figures_for_better_ones(told: Checked) -> None:
    rows = json.loads(rendered(told, "github-action-benchmark"))
    assert len({r["name"] for r in rows}) == len(rows) == 3
    for row in rows:
        required(row, "name", "unit", "value")
        assert isinstance(row["value"], (int, float)) and isinstance(row["unit"], str)


def test_bencher_metric_format_has_a_value_for_each_measure(told: Checked) -> None:
    """bencher.dev/bmf.json"""
    body = json.loads(rendered(told, "bencher"))
    assert len(body) == 1
    for name, measures in body.items():
        assert 0 < len(name) <= 1024
        assert all(0 < len(m) <= 64 and set(v) <= {"value", "lower_value", "upper_value"} for m, v in measures.items())
        assert {m: v["value"] for m, v in measures.items()} == {
            v.limit.quantity: v.figure.value for v in told.verdicts if v.figure is not None
        }
