"""The rounds of a schedule and the epochs of a training, as the page tells them."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from toolchain.report.charts import curve, sig
from toolchain.report.figures import NONE, _numbers, count, percent, say, told

Json = dict[str, Any]
STAGES = ("after_retrain", "after_recover", "after_prune")


def rounds_view(schedule: Json | None) -> Json:
    """Rows of the rounds, the accuracy along them as a chart, and who judged; empty where a cut was made at once."""
    rounds = (schedule["rounds"] or []) if schedule else []
    if schedule is None or not (schedule["judge"] or schedule["stopped"] or len(rounds) > 1):
        return {"rounds": [], "round_sets": [], "round_chart": None, "judged": "", "stopped": ""}
    judge = schedule["judge"]
    words = f"{say(judge['about'])}, at least {told(percent)(judge['floor'])}" if judge else ""
    sets = list(dict.fromkeys(say(row["data"]) for r in rounds for row in (r["accuracy"] or [])))
    return {
        "rounds": [round_row(r, sets) for r in rounds],
        "round_sets": sets,
        "round_chart": chart([r for r in rounds if not r["undone"]], sets[-1]) if sets else None,
        "judged": words,
        "stopped": say(schedule["stopped"]) if schedule["stopped"] else "",
    }


def round_row(of: Json, sets: list[str]) -> Json:
    """One round: its costs as shares of the original, its proof, the last accuracy on each set."""
    costs = of["costs"] or {}
    left = {q: told(percent)(share(costs.get(q))) for q in ("params", "macs")}
    proof = NONE if of["passed"] is None else f"{'passed' if of['passed'] else 'failed'}, {told(sig)(of['max_rel'])}"
    by_set = {say(row["data"]): row for row in of["accuracy"] or []}
    right = [told(percent)(last(by_set[name])) if name in by_set else NONE for name in sets]
    return {"round": of["round"], "budget": of["budget"], "proof": proof, "right": right, "undone": of["undone"]} | left


def share(cost: Json | None) -> float | None:
    """What is left of a quantity."""
    return (
        cost["after"] / cost["before"] if cost and _numbers(cost["before"], cost["after"]) and cost["before"] else None
    )


def last(row: Json) -> float | None:
    """The accuracy after the last stage that there was."""
    return next((row[stage] for stage in STAGES if row[stage] is not None), None)


def chart(rounds: list[Json], name: str) -> Markup | None:
    """Accuracy on one set against the parameters left, from the original on the right."""
    points: list[tuple[float, float, str]] = []
    for of in rounds:
        row = next((r for r in of["accuracy"] or [] if say(r["data"]) == name), None)
        x, y = share((of["costs"] or {}).get("params")), None if row is None else last(row)
        if row is not None and not points and _numbers(row["before"]):
            points.append((1.0, row["before"], f"the original: {percent(row['before'])}"))
        if _numbers(x, y) and x is not None and y is not None:
            tip = f"round {told(count)(of['round'])}: {percent(y)} with {percent(x)} of the parameters"
            points.append((x, y, tip))
    points = [(x, y, tip) for x, y, tip in points if 0 <= x <= 1 and 0 <= y <= 1]
    return curve(f"Accuracy on {name}", "; ".join(tip for *_, tip in points), points) if len(points) > 1 else None
