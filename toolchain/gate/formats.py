"""Verdicts as pipelines read them. Names come out of files that may be hostile: each format escapes them its own way.

GitHub runs what it reads as a command: a line that begins with `::`, or one with `##[` anywhere. So no line of ours
begins with a name, and names are `printable` or in JSON, where neither can be.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from toolchain import __version__
from toolchain.errors import printable
from toolchain.gate.checking import key
from toolchain.gate.counts import Figure
from toolchain.gate.verdicts import FAILED, PASSED, SKIPPED, UNDECIDED, Checked, Verdict, message, percent, spoken
from toolchain.tables import aligned, markdown

MARKER = "<!-- jettison check -->"  # by which a bot finds the comment that it is to replace
WORDS = {PASSED: "ok", FAILED: "FAILED", UNDECIDED: "undecided", SKIPPED: "skipped"}
NEITHER = (UNDECIDED, SKIPPED)  # what pipelines have no word for but "skipped", or a warning
SARIF = "https://json.schemastore.org/sarif-2.1.0.json"
RULES = {
    "flash": "A file is no larger than its budget",
    "ram": "The arena of activations is no larger than its budget",
    "params": "A network has no more parameters than its budget",
    "macs": "A network takes no more multiply-accumulates than its budget",
    "instructions": "An inference takes no more instructions than its budget",
    "latency": "An inference takes no longer than its budget",
    "accuracy": "A network answers as many samples rightly as it has to",
}
SARIF_KINDS = {
    PASSED: ("pass", "none"),
    FAILED: ("fail", "error"),
    UNDECIDED: ("open", "none"),
    SKIPPED: ("notApplicable", "none"),
}
BENCHER = {"flash": "file-size", "latency@local": "latency"}  # measures that Bencher has itself


def rendered(checked: Checked, form: str) -> str:
    """All verdicts in a format, without a line break at the end."""
    return FORMATS[form](checked)


# ---- for people -----------------------------------------------------------------------------------------------------
def row(verdict: Verdict) -> dict[str, Any]:
    """A limit's line; the verdict comes first, for a name must not begin a line."""
    limit, figure = verdict.limit, verdict.figure
    value = None if figure is None else figure.value
    sign = "≥" if limit.kind in ("least", "drop") else "≤"
    return {
        "": WORDS[verdict.status],
        "model": limit.model,
        "limit": limit.name,
        "before": verdict.before and spoken(limit.quantity, verdict.before),
        "value": None if value is None else spoken(limit.quantity, value),
        "change": changed(limit.quantity, verdict.before, value),
        "allowed": None if figure is None else f"{sign} {spoken(limit.quantity, verdict.bound)}",
        "grade": figure and graded(figure),
    }


def graded(figure: Figure) -> str:
    """How a value was come by, and how far it may be off."""
    return figure.grade if figure.noise is None else f"{figure.grade} ± {percent(figure.noise)}"


def changed(quantity: str, before: float | None, after: float | None) -> str | None:
    """+1.20 %, or points of accuracy."""
    if not before or after is None:
        return None
    return f"{100 * (after - before):+.2f} points" if quantity == "accuracy" else f"{100 * (after / before - 1):+.2f} %"


def columns(checked: Checked) -> list[dict[str, Any]]:
    """The rows without columns that none of them fills."""
    rows = [row(v) for v in checked.verdicts]
    filled = [k for k in rows[0] if any(r[k] is not None for r in rows)]
    return [{k: r[k] for k in filled} for r in rows]


def for_terminal(checked: Checked) -> str:
    """Rows, then a line on each failure and what to do about it, and on what is undecided."""
    told = [f"{printable(v.limit.place)}: {message(v)}" for v in (*checked.failed, *checked.undecided)]
    return "\n".join([aligned(columns(checked)), *([""] if told else []), *told, *ways(checked)])


def ways(checked: Checked) -> list[str]:
    """A way out for each file that failed."""
    return list(dict.fromkeys(way_out(v) for v in checked.failed))


def way_out(verdict: Verdict) -> str:
    """Printable."""
    return printable(verdict.way_out)


def for_markdown(checked: Checked) -> str:
    """A comment on a change: before, after, and what to do about a failure."""
    count = {status: sum(v.status == status for v in checked.verdicts) for status in WORDS}
    head = f"**Budgets: {', '.join(f'{n} {status}' for status, n in count.items() if n)}**"
    told = [f"- {plain(v.limit.place)}&#58; {plain(message(v))}" for v in (*checked.failed, *checked.undecided)]
    lines = [MARKER, head, "", plain_table(checked), *([""] if told else []), *told]
    return "\n".join([*lines, *(line for way in ways(checked) for line in ("", plain(way)))])


def plain_table(checked: Checked) -> str:
    """The rows as a GitHub table."""
    return markdown([{k: v and plain(v) for k, v in r.items()} for r in columns(checked)])


def plain(text: str) -> str:
    """Text in which Markdown and HTML see nothing but letters, and in which nobody and no issue is mentioned."""
    inert = re.sub(r"([\\`*_{}\[\]()#!~|<>&@:])", lambda m: f"&#{ord(m[1])};", printable(text))
    return re.sub(r"&#(35|64);", r"&#\1;&#8203;", inert)  # GitHub looks for # and @ after it has made HTML


# ---- for machines ---------------------------------------------------------------------------------------------------
def record(verdict: Verdict) -> dict[str, Any]:
    """A limit with all that is known of it."""
    limit, figure = verdict.limit, verdict.figure
    return {
        "model": limit.model,
        "name": limit.name,
        "quantity": limit.quantity,
        "kind": limit.kind,
        "target": limit.target or None,
        "status": verdict.status,
        "value": None if figure is None else figure.value,
        "bound": None if figure is None else verdict.bound,
        "before": verdict.before,
        "grade": figure and figure.grade,
        "noise": figure and figure.noise,
        "least": figure and figure.least,
        "largest": figure and (figure.largest or None),
        "note": figure and (figure.note or None),
        "file": str(limit.file),
        "line": limit.line,
        "message": message(verdict),
        "way_out": verdict.way_out or None,
    }


def as_json(checked: Checked) -> str:
    """Everything."""
    body = {
        "schema": "jettison.check/1",
        "tool": f"jettison {__version__}",
        "config": str(checked.config),
        "models": [{"model": s.name, "sha256": s.sha256} for s in checked.subjects],
        "passed": not checked.failed,
        "checks": [record(v) for v in checked.verdicts],
    }
    return dumped(body)


def dumped(body: Any) -> str:
    """JSON in which GitHub sees no command."""
    return json.dumps(body, indent=1).replace("##[", r"#\u0023[")


def as_junit(checked: Checked) -> str:
    """A test case for each limit, a class for each model: what Jenkins's junit-10.xsd knows, and nothing else."""
    from xml.etree import ElementTree

    counts = {
        "tests": str(len(checked.verdicts)),
        "failures": str(len(checked.failed)),
        "errors": "0",
    }
    root = ElementTree.Element("testsuites", {"name": "jettison check", **counts})
    config = printable(str(checked.config))
    skipped = str(sum(v.status in NEITHER for v in checked.verdicts))
    about = {"name": config, **counts, "skipped": skipped, "time": "0", "file": config}
    suite = ElementTree.SubElement(root, "testsuite", about)
    for v in checked.verdicts:
        limit = v.limit
        told = {"classname": printable(limit.model), "name": printable(limit.name), "time": "0"}
        case = ElementTree.SubElement(suite, "testcase", told)
        if v.status == FAILED:
            failure = ElementTree.SubElement(case, "failure", {"type": limit.quantity, "message": message(v)})
            failure.text = f"{printable(limit.place)}: {message(v)}\n{way_out(v)}"
        if v.status in NEITHER:
            ElementTree.SubElement(case, "skipped", {"message": message(v)})
    ElementTree.indent(root, " ")
    return "<?xml version='1.0' encoding='UTF-8'?>\n" + ElementTree.tostring(root, encoding="unicode")


def as_sarif(checked: Checked) -> str:
    """A result for each limit, at its line of the configuration (OASIS SARIF 2.1.0)."""
    rules = [{"id": f"budget/{q}", "shortDescription": {"text": text}} for q, text in RULES.items()]
    driver = {"name": "jettison", "version": __version__, "rules": rules}
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [sarif_result(v) for v in checked.verdicts],
    }
    return dumped({"$schema": SARIF, "version": "2.1.0", "runs": [run]})


def sarif_result(verdict: Verdict) -> dict[str, Any]:
    """One limit. GitHub tells results apart by their fingerprints, so that a moved line is no new one."""
    limit, (kind, level) = verdict.limit, SARIF_KINDS[verdict.status]
    text = ". ".join(filter(None, [message(verdict), way_out(verdict)]))
    return {
        "ruleId": f"budget/{limit.quantity}",
        "ruleIndex": list(RULES).index(limit.quantity),
        "kind": kind,
        "level": level,
        "message": {"text": text.replace("[", "\\[").replace("]", "\\]")},  # brackets would make a link
        "locations": [
            {"physicalLocation": {"artifactLocation": {"uri": uri(limit.file)}, "region": {"startLine": limit.line}}}
        ],
        "partialFingerprints": {"limit/v1": f"{limit.model}: {limit.name}"},
    }


def uri(path: Path) -> str:
    """A relative path as a reference, an absolute one as file://."""
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())


def as_github(checked: Checked) -> str:
    """An annotation for each failure, at its line; what is held is one notice."""
    lines = [annotation("error", v) for v in checked.failed]
    lines += [annotation("warning", v) for v in checked.verdicts if v.status in NEITHER]
    held = [message(v) for v in checked.verdicts if v.status == PASSED]
    return "\n".join([*lines, *(f"::notice title=jettison::{data('; '.join(held))}" for _ in held[:1])])


def annotation(level: str, verdict: Verdict) -> str:
    """One workflow command."""
    limit = verdict.limit
    where = (
        f"file={property_of(str(limit.file))},line={limit.line},title={property_of(f'{limit.name} of {limit.model}')}"
    )
    return f"::{level} {where}::{data('. '.join(filter(None, [message(verdict), way_out(verdict)])))}"


def data(text: str) -> str:
    """The text of a workflow command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def property_of(text: str) -> str:
    """A property of one."""
    return data(printable(text)).replace(":", "%3A").replace(",", "%2C")


def as_benchmark_action(checked: Checked) -> str:
    """Entries of github-action-benchmark's customSmallerIsBetter; of accuracy the share that is wrong."""
    units = {"flash": "bytes", "ram": "bytes", "latency": "ns", "accuracy": "share wrong"}
    rows = []
    for (model, figure_key), v in figures(checked).items():
        assert v.figure is not None
        quantity, value = v.limit.quantity, v.figure.value
        entry: dict[str, Any] = {
            "name": f"{model}: {figure_key}",
            "unit": units.get(quantity, quantity),
            "value": 1 - value if quantity == "accuracy" else value,
            "extra": message(v),
        }
        if v.figure.noise is not None:
            entry["range"] = f"± {value * v.figure.noise:.0f}"
        rows.append(entry)
    return dumped(rows)


def as_bencher(checked: Checked) -> str:
    """Bencher Metric Format: a benchmark for each model, a measure for each figure, with its noise as bounds."""
    body: dict[str, dict[str, Any]] = {}
    for (model, figure_key), v in figures(checked).items():
        assert v.figure is not None
        value, noise = v.figure.value, v.figure.noise
        metric = {"value": value}
        if noise is not None:
            metric |= {"lower_value": max(value * (1 - noise), 0.0), "upper_value": value * (1 + noise)}
        body.setdefault(printable(model)[:1024], {})[BENCHER.get(figure_key, printable(figure_key)[:64])] = metric
    return dumped(body)


def figures(checked: Checked) -> Mapping[tuple[str, str], Verdict]:
    """A verdict for each figure that was taken."""
    return {(v.limit.model, key(v.limit)): v for v in checked.verdicts if v.figure is not None}


FORMATS: dict[str, Callable[[Checked], str]] = {
    "table": for_terminal,
    "json": as_json,
    "junit": as_junit,
    "sarif": as_sarif,
    "md": for_markdown,
    "github": as_github,
    "github-action-benchmark": as_benchmark_action,
    "bencher": as_bencher,
}
