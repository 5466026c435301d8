"""report.json as one HTML page that loads nothing and runs nothing.

The page's words stand in `page.html.j2`, its charts in `charts.py`, its numbers in `figures.py`; here are the verdict
and the sums that the page needs. Every text from a model file passes `plain` and autoescaping: names there are hostile.
What is None or empty is said to be missing, in words.
"""

from __future__ import annotations

import math
import re
import shlex
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined, Template, UndefinedError
from markupsafe import Markup

from toolchain.errors import BadInput
from toolchain.report.charts import Mark, axis, histogram, plain, sig, strip, ticks
from toolchain.report.figures import (
    NBSP,
    NONE,
    _numbers,
    change,
    count,
    duration,
    faster,
    figure,
    interval,
    macs,
    moment,
    percent,
    points,
    say,
    seconds,
    shape,
    size,
    told,
    wilson,
)
from toolchain.report.rounds import rounds_view

Json = dict[str, Any]
SCHEMA = "jettison.report/1"
GAP_LIMIT = 0.05  # completeness gap worth a warning: nodes are chosen for 2 % on a pilot, all samples may exceed it
MOVED = 0.5  # rank correlation of explanations below which the reasons are others
FEW = 30  # images of a class below which its accuracy says little
STAGES = (("before", "Before"), ("after_prune", "After pruning"), ("after_recover", "After recovery"),
          ("after_retrain", "After retraining"))  # fmt: skip
STAGE_KINDS = {"before": "before", "after_prune": "prune", "after_recover": "recover", "after_retrain": "kept"}
ROLE_KINDS = {"before": "before", "after": "kept", "other": "removed"}
GRADES = {
    "measured": "Wall-clock time on the processor named.",
    "counted": "Instructions under emulation, told as the emulator's clock: repeatable, but not a time on a board.",
    "estimated": "From a model of the processor, not run on it. The bar is the median, the whisker the whole interval.",
}
EXIT_CODES = {
    0: "done", 1: "a gate failed", 2: "wrong usage or configuration", 3: "bad input file", 4: "unsupported",
    5: "budget out of reach", 6: "board or runner failed", 70: "a fault of jettison itself", 130: "interrupted",
}  # fmt: skip
PASSED, FAILED, OPEN, NOTE = "passed", "failed", "open", "note"


class Finding(NamedTuple):
    """One line of the verdict: what was asked, PASSED / FAILED / OPEN (unknown) / NOTE (no claim), and its words."""

    asked: str
    state: str
    words: str


def render(report: Json) -> str:
    """The page for `report` (`jettison.report/1`): the same report gives the same bytes. Raises BadInput."""
    if report.get("schema") != SCHEMA:
        raise BadInput(f"has schema {report.get('schema')!r}, not {SCHEMA!r}", "report.json", "Run compress again")
    try:
        return _template().render(report | _view(report))
    except (KeyError, UndefinedError) as error:
        raise BadInput(f"lacks a field: {error}", "report.json", "Run compress again") from error


@cache
def _template() -> Template:
    env = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_printed, trim_blocks=True, lstrip_blocks=True
    )
    env.filters |= FILTERS
    return env.from_string(files("toolchain.report").joinpath("page.html.j2").read_text("utf-8"))


def _short(value: object, most: int = 60) -> str:
    """A text with its middle left out where it is longer than `most`."""
    text = say(value)
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - most // 2 + 1 :]}"


def _state(passed: bool | None) -> str:
    return "not checked" if passed is None else PASSED if passed else FAILED


def _printed(value: object) -> object:
    """What a template expression prints: control characters told, a missing value as a dash."""
    if value is None:
        return NONE
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _limit(check: Json, field: str) -> str:
    """A check's limit or value in the unit that a word of its name tells."""
    words = re.split(r"[^a-z]+", str(check["name"]).lower())
    return told(next((CHECK_UNITS[word] for word in words if word in CHECK_UNITS), figure))(check[field])


CHECK_UNITS: dict[str, Callable[..., str]] = {
    "flash": size, "ram": size, "arena": size, "bytes": size, "latency": duration, "macs": macs,
    "accuracy": percent, "drop": percent,
}  # fmt: skip
FILTERS: dict[str, Callable[..., object]] = {
    **{f.__name__: told(f) for f in (count, size, macs, duration, seconds, percent, figure, shape, sig)},
    "moment": moment,
    "short": _short,
    "state": _state,
    "interval": interval,
    "limit": _limit,
}


# What the page says.


def _view(report: Json) -> Json:
    """The parts of the page that are not fields of the report."""
    pairs = _latency_pairs(report)
    findings = [_proof(report), _files(report), _checks(report), _exit(report)]
    states = {finding.state for finding in findings}
    state = next((s for s in (FAILED, OPEN) if s in states), PASSED)
    return {
        "model": report["models"]["before"]["path"] or "a model without a name",
        "summary": _summary(report, pairs),
        "findings": findings,
        "state": state,
        "comparison": [*_sizes(report["models"]), *_speeds(pairs), *_accuracies(report)],
        "notes": [
            *_proof_notes(report),
            *_speed_notes(report, pairs),
            *_accuracy_notes(report),
            *_drift_notes(report),
            *_rank_notes(report),
        ],
        "stages_of": [
            (key, name) for key, name in STAGES if any(row[key] is not None for row in _list(report, "accuracy"))
        ],
        "changed_later": [name.removeprefix("After ") for key, name in STAGES[2:] if _used(report, key)],
        "retrained": _used(report, "after_retrain"),
        "deviation": _list(report, "deviation"),
        "quantised": report.get("quantised") or [],
        "drift": report.get("drift"),
        "accuracy_charts": [_accuracy_chart(row) for row in _list(report, "accuracy")],
        "group_rows": [_group_row(group) for group in _list(report["plan"], "groups")],
        "layer_rows": _layer_rows(report["models"]),
        "weight_chart": _weight_chart(report["models"]),
        "histograms": [_histogram(layer) for layer in _list(report["ranking"], "layers")],
        "benches": _benches(report),
        "latency_roles": 3 if any(_role(row, report) == "other" for row in _list(report, "bench")) else 2,
        "frozen": _frozen(report),
        "epochs": _list(report.get("retraining"), "epochs"),
        "binding": ", ".join(map(say, report["plan"].get("binding") or [])) if report["plan"] else "",
        **rounds_view(report.get("schedule")),
        "stage_rows": _stage_rows(_list(report, "stages")),
        "command": shlex.join(map(plain, map(say, _list(report, "arguments")))),
        "few": FEW,
    }


def _list(section: Json | None, field: str) -> list[Any]:
    """A list of the report that may be missing."""
    return (section[field] or []) if section else []


def _summary(report: Json, pairs: list[tuple[Json, Json]]) -> str:
    """The sentence under the headline: file, work, the first latency, the last accuracy (held-out)."""
    rows = {row["what"]: row for row in _sizes(report["models"]) if row["change"] != NONE}
    parts = [
        f"{name} {rows[what]['before']} → {rows[what]['after']} ({rows[what]['change']})"
        for name, what in (("File", "File"), ("work", "Multiply-accumulates"))
        if what in rows
    ]
    for (_, after), row in list(zip(pairs, _speeds(pairs), strict=True))[:1]:
        where = f"{say(after['grade'])} with {say(after['runtime'])} on {say(after['target'])}"
        parts.append(f"p50 latency {row['before']} → {row['after']} ({row['extra']}, {where})")
    for data, row in list(zip(_list(report, "accuracy"), _accuracies(report), strict=True))[-1:]:
        parts.append(
            f"accuracy {row['before']} → {row['after']} ({say(data['data'])}, {told(count)(data['n'])} images)"
        )
    return ", ".join(parts) + "." if parts else ""


def _proof(report: Json) -> Finding:
    proof = report["verify"]
    if not proof or proof["passed"] is None or not proof["samples"]:
        return Finding("Proof", OPEN, "Not run: nothing shows that the pruned network equals the masked original.")
    tell = told(sig)
    words = (
        f"On {told(count)(proof['samples'])} inputs the pruned network and the {say(proof['against'])} differ by "
        f"at most {tell(proof['max_rel'])} relative, where {tell(proof['tolerance'])} is allowed; "
        f"same top class on {told(count)(proof['argmax_equal'])} of {told(count)(proof['samples'])}."
    )
    return Finding("Proof", PASSED if proof["passed"] else FAILED, words)


def _files(report: Json) -> Finding:
    emitted = _list(report, "emitted")
    bad = [say(row["path"]) for row in emitted if row["passed"] is False]
    unchecked = [say(row["path"]) for row in emitted if row["passed"] is None]
    if not emitted:
        return Finding("Files", NOTE, "No file was written.")
    worst = max((row["max_rel"] for row in emitted if _numbers(row["max_rel"])), default=None)
    most = "" if worst is None else f": relative difference at most {sig(worst)}"
    if bad:
        return Finding(
            "Files", FAILED, f"{len(bad)} of {len(emitted)} differ from the compressed network: {', '.join(bad)}."
        )
    if unchecked:
        return Finding("Files", OPEN, f"{len(unchecked)} of {len(emitted)} were not checked: {', '.join(unchecked)}.")
    return Finding(
        "Files", PASSED, f"All {len(emitted)} written files passed their comparison with the compressed network{most}."
    )


def _checks(report: Json) -> Finding:
    checks = _list(report, "checks")
    if not checks:
        return Finding("Checks", NOTE, "No limits were configured.")
    bad = [f"{say(row['name'])}: {row['message'] or 'no message'}" for row in checks if row["passed"] is False]
    unknown = [say(row["name"]) for row in checks if row["passed"] is None]
    if bad:
        return Finding("Checks", FAILED, f"{len(bad)} of {len(checks)} failed. {'; '.join(bad)}")
    if unknown:
        return Finding("Checks", OPEN, f"{len(unknown)} of {len(checks)} could not be decided: {', '.join(unknown)}.")
    return Finding("Checks", PASSED, f"All {len(checks)} limits are held.")


def _exit(report: Json) -> Finding:
    code = report["exit_code"]
    if code is None:
        return Finding("Run", OPEN, "No exit code was recorded.")
    return Finding("Run", FAILED if code else PASSED, f"Exit code {code}: {EXIT_CODES.get(code, 'unknown code')}.")


def _row(what: str, before: Any, after: Any, form: Callable[..., str], note: str = "") -> Json:
    """A line of the before/after table, with what is left as a bar where it is less."""
    tell = told(form)
    share = after / before if _numbers(before, after) and before else None
    bar = (
        strip(what, f"{percent(share)} is left", [[Mark(0, 1, "track"), Mark(0, share, "kept")]], 8) if share else None
    )
    texts = {"before": tell(before), "after": tell(after), "change": change(before, after)}
    return {"what": what, "note": note, "bar": bar if share and share <= 1 else None, **texts}


def _sizes(models: Json) -> list[Json]:
    before, after = models["before"], models["after"]
    what = (
        ("Parameters", "params", count, ""),
        ("Multiply-accumulates", "macs", macs, "per inference"),
        ("File", "bytes", size, "model as ONNX"),
        ("Weights in flash", "flash_bytes", size, ""),
        ("Arena", "arena_bytes", size, "peak activations"),
    )
    return [_row(name, before[key], after[key], form, note) for name, key, form, note in what]


def _speeds(pairs: list[tuple[Json, Json]]) -> list[Json]:
    rows: list[Json] = []
    for before, after in pairs:
        p50s = before["ns"]["p50"], after["ns"]["p50"]
        on = f"{say(after['runtime'])} on {say(after['target'])}, {_threads(after)}"
        where = f"{say(after['grade'])}: {say(after['model'])}, {on}"
        row = _row("Latency, p50", *p50s, duration, where)
        rows.append(row | {"extra": faster(*p50s) + (", within the noise" if _is_noise(before, after) else "")})
    return rows


def _threads(row: Json) -> str:
    return f"{told(count)(row['threads'])}{NBSP}thread" + ("" if row["threads"] == 1 else "s")


def _is_noise(before: Json, after: Json) -> bool:
    noises = [row["noise"] for row in (before, after) if _numbers(row["noise"])]
    p50s = before["ns"]["p50"], after["ns"]["p50"]
    return bool(noises) and _numbers(*p50s) and abs(p50s[1] - p50s[0]) <= max(noises) * p50s[0]


def _accuracies(report: Json) -> list[Json]:
    rows: list[Json] = []
    for row in _list(report, "accuracy"):
        key, name = _last(row)
        texts = {"before": told(percent)(row["before"], row["n"]), "after": told(percent)(row[key], row["n"])}
        note = f"{say(row['data'])}, n = {told(count)(row['n'])}, {name.lower()}"
        rows.append({"what": "Accuracy", "note": note, "bar": None, "change": points(row["before"], row[key]), **texts})
    return rows


def _last(row: Json) -> tuple[str, str]:
    """The last stage after which an accuracy was measured."""
    return next(((key, name) for key, name in reversed(STAGES[1:]) if row.get(key) is not None), STAGES[1])


def _used(report: Json, stage: str) -> bool:
    return any(row.get(stage) is not None for key in ("accuracy", "deviation") for row in _list(report, key))


def _speed_notes(report: Json, pairs: list[tuple[Json, Json]]) -> Iterable[str]:
    for before, after in pairs:
        p50s = before["ns"]["p50"], after["ns"]["p50"]
        if _numbers(*p50s) and p50s[1] > p50s[0] and not _is_noise(before, after):
            yield f"Slower than the original with {say(after['runtime'])} on {say(after['target'])}: {faster(*p50s)}."
    grades = {row["grade"] for row in _list(report, "bench")}
    if grades and "measured" not in grades:
        yield "No latency was measured on a processor: those below are " + " or ".join(sorted(map(say, grades))) + "."


def _accuracy_notes(report: Json) -> Iterable[str]:
    if not _list(report, "accuracy"):
        yield "No labels were given: the accuracy before and after is not known."
    for data in _list(report, "accuracy"):
        if data.get("skipped"):
            yield f"{told(count)(data['skipped'])} images of {say(data['data'])} could not be read and were left out."
        for text in data.get("warnings") or ():
            yield f"{say(data['data'])}: {say(text)}."
    losses: list[tuple[float, Json | None, Json | None]] = [
        (row["before"] - row[_last(row)[0]], row, data)
        for data in _list(report, "accuracy")
        for row in _list(data, "per_class")
        if _numbers(row["before"], row[_last(row)[0]])
    ]
    loss, row, data = max(losses, key=lambda found: found[0], default=(0.0, None, None))
    if row and data and loss > 0:
        after = row[_last(row)[0]]
        yield (
            f"The class that lost most is “{say(row['class'])}” in {say(data['data'])}: {percent(row['before'])} → "
            f"{percent(after)} {_last(row)[1].lower()} (n = {told(count)(row['n'])}, 95 % interval now "
            f"{interval(after, row['n'])})."
        )


def _drift_notes(report: Json) -> Iterable[str]:
    drift = report.get("drift") or {}
    if drift and _numbers(drift["rank_correlation"]) and drift["rank_correlation"] < MOVED:
        stayed = (
            f", while {percent(drift['same_answer'])} of the answers stayed" if _numbers(drift["same_answer"]) else ""
        )
        yield (
            f"The reasons moved: the heatmaps of both networks have a rank correlation of "
            f"{sig(drift['rank_correlation'])} on {told(count)(drift['n'])} samples{stayed}."
        )


def _proof_notes(report: Json) -> Iterable[str]:
    off = report["verify"]["approximate"] if report["verify"] else None
    if off:
        yield (
            "Approximate cut: widths that norms take their statistics over went, and norms see only what is kept. "
            "Against the masked original with its own norms the answers change by up to "
            f"{told(percent)(off['max_rel'])} of the largest; same top "
            f"class on {told(count)(off['argmax_equal'])} of {told(count)(off['samples'])} inputs."
        )


def _rank_notes(report: Json) -> Iterable[str]:
    ranking = report["ranking"]
    if not ranking:
        yield "No ranking was made in this run: the plan came from elsewhere."
    elif _numbers(ranking["completeness_gap"]) and ranking["completeness_gap"] > GAP_LIMIT:
        gap = percent(ranking["completeness_gap"])
        yield f"The ranking's completeness gap is {gap}, above {percent(GAP_LIMIT)}: use more steps."


def _latency_pairs(report: Json) -> list[tuple[Json, Json]]:
    """(before, after) rows of the same runtime, target, threads and grade: no other latencies are compared."""
    rooms: dict[tuple[object, ...], list[Json]] = defaultdict(list)
    for row in _list(report, "bench"):
        if row["ns"]:
            rooms[row["runtime"], row["target"], row["threads"], row["grade"]].append(row)
    roles = [
        ({role: [row for row in rows if _role(row, report) == role] for role in ("before", "after")})
        for rows in rooms.values()
    ]
    return [(room["before"][0], after) for room in roles if room["before"] for after in room["after"]]


def _role(row: Json, report: Json) -> str:
    """Whether a bench row's model is the original (by its path, then by its name in any format) or the result."""
    name, models = row["model"], report["models"]
    results = {"after", models["after"]["path"], *(file["path"] for file in _list(report, "emitted"))}
    if name in {"before", models["before"]["path"]}:
        return "before"
    if name in results:
        return "after"
    stems = {PurePosixPath(str(path)).stem for path in (name, models["before"]["path"])}
    return "before" if len(stems) == 1 else "other"


def _benches(report: Json) -> list[Json]:
    """Latency charts: one per grade and target, never two grades on one scale."""
    rows = _list(report, "bench")
    grades = sorted(
        {say(row["grade"]) for row in rows}, key=lambda g: (list(GRADES).index(g) if g in GRADES else 99, g)
    )
    charts: list[Json] = []
    for grade in grades:
        found = [row for row in rows if say(row["grade"]) == grade]
        targets = list(dict.fromkeys(say(row["target"]) for row in found))
        about = GRADES.get(grade, "A grade that this page does not know.")
        of = [_bench_chart(target, [r for r in found if say(r["target"]) == target], report) for target in targets]
        charts.append({"grade": grade, "about": about, "targets": of})
    return charts


def _bench_chart(target: str, rows: list[Json], report: Json) -> Json:
    """The rows of one grade and target on one scale."""
    ends = [row["ns"][key] for row in rows if row["ns"] for key in ("p50", "p90", "max" if _is_model(row) else "p90")]
    top = max((end for end in ends if _numbers(end)), default=0.0)
    marks = ticks(top)
    top = max(top, marks[-1]) * 1.02 or 1.0
    of = [row | {"strip": _bench_strip(row, top, report), "on": _threads(row)} for row in rows]
    return {"target": target, "rows": of, "axis": axis([(at / top, _tick(at)) for at in marks])}


def _is_model(row: Json) -> bool:
    return row["grade"] == "estimated"


def _tick(value: float) -> str:
    """A round duration without the zeros that say nothing."""
    number, _, unit = duration(value).partition(NBSP)
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number}{NBSP}{unit}" if value else "0"


def _bench_strip(row: Json, top: float, report: Json) -> Markup | None:
    ns = row["ns"]
    if not ns or not _numbers(ns["p50"]):
        return None
    ends = (ns["min"], ns["max"]) if _is_model(row) else (ns["p50"], ns["p90"])
    line = [Mark(0, ns["p50"] / top, ROLE_KINDS[_role(row, report)], "p50 " + duration(ns["p50"]))]
    if _numbers(*ends):
        tip = f"{duration(ends[0])} to {duration(ends[1])}"
        line.append(Mark(ends[0] / top, ends[1] / top, "ink", tip, "whisker"))
    desc = f"p50 {duration(ns['p50'])}, whisker from {told(duration)(ends[0])} to {told(duration)(ends[1])}"
    return strip(f"{say(row['model'])} with {say(row['runtime'])}", desc, [line], 14)


def _accuracy_chart(data: Json) -> Json:
    """Per class, one line per stage: a dot and its interval, on a scale from the lowest interval to 100 %."""
    rows = _list(data, "per_class")
    ends = [wilson(row.get(key), row["n"]) for row in rows for key, _ in STAGES]
    floor = math.floor(10 * min((end[0] for end in ends if end), default=0.0)) / 10
    floor = min(floor, 0.9)

    def scale(share: float) -> float:
        return (share - floor) / (1 - floor)

    step = 0.1 if floor >= 0.7 else 0.25
    rules = [at for at in (round(1 - step * i, 2) for i in range(5)) if at >= floor]
    of = [row | {"strip": _accuracy_strip(row, scale, [scale(at) for at in rules])} for row in rows]
    few = any(_numbers(row["n"]) and row["n"] < FEW for row in rows)
    return data | {"few": few, "rows": of, "axis": axis([(scale(at), f"{100 * at:.0f}{NBSP}%") for at in rules])}


def _accuracy_strip(row: Json, scale: Callable[[float], float], rules: list[float]) -> Markup:
    lines: list[list[Mark]] = []
    for key, name in STAGES:
        ends = wilson(row.get(key), row["n"])
        if ends:
            tip, kind = f"{name}: {percent(row[key])}, 95 % interval {interval(row[key], row['n'])}", STAGE_KINDS[key]
            whisker = Mark(scale(ends[0]), scale(ends[1]), kind, tip, "whisker")
            lines.append([whisker, Mark(scale(row[key]), scale(row[key]), kind, tip, "dot")])
    desc = "; ".join(line[0].tip for line in lines) or "not measured"
    return strip(say(row["class"]), desc, lines, 9, rules)


def _group_row(group: Json) -> Json:
    before, after, dead = group["before"], group["after"], group["dead"]
    if not _numbers(before, after) or not before:
        return group | {"strip": None, "left": None}
    gone, lost = before - after, min(dead or 0, before - after)
    ends = [after / before, (after + lost) / before]
    line = [Mark(0, ends[0], "kept", f"{count(after)} kept")]
    if lost:
        line.append(Mark(ends[0], ends[1], "dead", f"{count(lost)} removed that never activate"))
    if gone > lost:
        line.append(Mark(ends[1], 1.0, "removed", f"{count(gone - lost)} removed that do activate"))
    desc = f"{count(before)} units before, {count(after)} after"
    return group | {"strip": strip(say(group["name"]), desc, [line], 12), "left": after / before}


def _layer_rows(models: Json) -> list[tuple[Json | None, Json | None]]:
    """Layers paired by name, in the order of the original; what only one model has stands alone."""
    waiting: dict[object, deque[Json]] = defaultdict(deque)
    for layer in _list(models["after"], "layers"):
        waiting[layer["name"]].append(layer)
    rows: list[tuple[Json | None, Json | None]] = []
    for layer in _list(models["before"], "layers"):
        twins = waiting[layer["name"]]
        rows.append((layer, twins.popleft() if twins else None))
    return rows + [(None, layer) for twins in waiting.values() for layer in twins]


def _weight_chart(models: Json, most: int = 12) -> list[Json]:
    """Parameters before and after, layer by layer, largest first; the small ones summed in a last line."""
    pairs = [
        (say(before["name"]), before["params"] or 0, (after["params"] or 0) if after else 0)
        for before, after in _layer_rows(models)
        if before and before["params"]
    ]
    pairs.sort(key=lambda pair: -pair[1])
    if len(pairs) > most:
        rest = pairs[most - 1 :]
        name = f"{len(rest)} smaller layers together"
        pairs = [*pairs[: most - 1], (name, sum(pair[1] for pair in rest), sum(pair[2] for pair in rest))]
    top = max((max(pair[1:]) for pair in pairs), default=1)
    rows: list[Json] = []
    for name, before, after in pairs:
        lines = [
            [Mark(0, before / top, "before", f"{count(before)} before")],
            [Mark(0, after / top, "kept", f"{count(after)} after")],
        ]
        desc = f"{count(before)} parameters before, {count(after)} after"
        rows.append({"name": name, "before": before, "after": after, "strip": strip(name, desc, lines, 7)})
    return rows


def _histogram(layer: Json) -> Json:
    """Scores of the live units: as many exact zeros as there are dead units are left out, removed ones first."""
    scores, kept = _list(layer, "scores"), _list(layer, "kept")
    units = [(score, bool(stays)) for score, stays in zip(scores, kept, strict=False) if _numbers(score)]
    odd = len(scores) - len(units)
    zeros = sorted((at for at, (score, _) in enumerate(units) if not score), key=lambda at: units[at][1])
    hidden = set(zeros[: layer["dead"] or 0])
    live = [unit for at, unit in enumerate(units) if at not in hidden]
    stay = sum(map(bool, kept))
    desc = f"{stay} units kept, {len(kept) - stay} removed, {told(count)(layer['dead'])} of them dead and not drawn"
    chart = histogram(f"Scores of {say(layer['group'])}", desc, [s for s, _ in live], [k for _, k in live])
    return layer | {"chart": chart, "stay": stay, "odd": odd, "hidden": len(hidden)}


def _frozen(report: Json) -> list[tuple[str, list[Json]]]:
    """What is protected, by reason, the most frequent reason first."""
    reasons: dict[str, list[Json]] = defaultdict(list)
    for row in _list(report["plan"], "frozen"):
        reasons[str(row["reason"] or "no reason recorded")].append(row)
    return sorted(reasons.items(), key=lambda item: -len(item[1]))


def _stage_rows(stages: list[Json]) -> list[Json]:
    timed = [stage["seconds"] if _numbers(stage["seconds"]) else 0.0 for stage in stages]
    shares = [spent / (sum(timed) or 1.0) for spent in timed]
    return [
        stage | {"strip": strip(say(stage["name"]), percent(share), [[Mark(0, share, "before")]], 6)}
        for stage, share in zip(stages, shares, strict=True)
    ]
