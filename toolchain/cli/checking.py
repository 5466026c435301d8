"""Commands of the gate: check, init."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolchain.cli.app import cli
from toolchain.cli.options import FORCE, MODEL, SHAPE, parse_shapes
from toolchain.errors import BadInput, GateFailed, UsageError

if TYPE_CHECKING:
    from toolchain.gate.verdicts import Checked

FORMATS = ("table", "json", "junit", "sarif", "md", "github", "github-action-benchmark", "bencher")
QUANTITIES = ("flash", "ram", "params", "macs", "instructions", "latency", "accuracy")
SUMMARY = "GITHUB_STEP_SUMMARY"


@cli.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Else jettison.toml, else pyproject.toml's tables.",
)
@click.option(
    "--baseline", metavar="FILE|git:REF:PATH", help="Figures to compare with, instead of those that the file names."
)
@click.option(
    "--save-baseline", "saved", type=click.Path(path_type=Path), metavar="FILE",
    help="Accept today's figures: write them, and compare with none.",
)  # fmt: skip
@click.option("--skip", multiple=True, type=click.Choice(QUANTITIES), help="Do not look at this quantity; repeat.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True, help="How to print.")
@click.option(
    "--report", "reports", multiple=True, metavar="FORMAT=FILE", help="Write it too, such as junit=check.xml; repeat."
)
@FORCE
@click.pass_context
def check(
    context: click.Context,
    config: Path | None,
    baseline: str | None,
    saved: Path | None,
    skip: tuple[str, ...],
    form: str,
    reports: tuple[str, ...],
    force: bool,
) -> None:
    """Whether files keep to the [[budget]] entries of jettison.toml: exit 1 if one does not.

    A failure says by how much, what takes most, the line of the budget and a command that would get there. What cannot
    be taken, such as instructions on a board that is not set up, is an error and never a pass: --skip is to say so. A
    limit on latency or instructions that noise alone may have missed is undecided: that is told, and is no failure.
    """
    from toolchain.config import NAME, read_config
    from toolchain.files import check_new, write_text
    from toolchain.gate.baseline import baseline_of, encoded
    from toolchain.gate.checking import check as judge
    from toolchain.gate.formats import rendered
    from toolchain.gate.limits import limits

    files = dict(parse_report(text) for text in reports)
    for path in (*files, *filter(None, [saved])):
        check_new(path, force)
    file = read_config(config or context.obj.get("config"))
    if file is None:
        raise UsageError(f"there is no {NAME} here", way_out="Write one with jettison init MODEL, or give --config")
    checked = judge(
        file, limits(file, baseline or (None if saved is None else str(saved))), skip, is_saved=saved is not None
    )
    for path, kind in files.items():
        write_text(path, rendered(checked, kind) + "\n")
    if saved is not None:
        write_text(saved, encoded(baseline_of(checked.subjects)))
    click.echo(rendered(checked, form))
    if form == "github":
        summarise(rendered(checked, "md"))
    verdict(checked)


def parse_report(text: str) -> tuple[Path, str]:
    """'junit=check.xml' -> the file and its format; raises UsageError."""
    form, equals, path = text.partition("=")
    if not (equals and path) or form not in FORMATS:
        raise UsageError(
            f"cannot read the report '{text}'", way_out=f"Write FORMAT=FILE with one of {', '.join(FORMATS)}"
        )
    return Path(path), form


def summarise(text: str) -> None:
    """Append to the page of a GitHub job, where there is one."""
    name = os.environ.get(SUMMARY)
    if not name:
        return
    try:
        with open(name, "a", encoding="utf-8") as file:
            file.write(text + "\n")
    except OSError as error:
        raise BadInput(f"cannot write: {error.strerror}", f"{SUMMARY} {name}") from error


def verdict(checked: Checked) -> None:
    """Raise GateFailed for limits that do not hold."""
    failed = checked.failed
    if failed:
        names = ", ".join(f"{v.limit.name} of {v.limit.model}" for v in failed)
        raise GateFailed(f"{len(failed)} of {len(checked.verdicts)} budgets failed: {names}", way_out=failed[0].way_out)


@cli.command()
@MODEL
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("jettison.toml"), show_default=True)
@click.option(
    "--head-room", type=click.FloatRange(0, 1000), default=10, show_default=True, metavar="PERCENT",
    help="What today's figures may grow by.",
)  # fmt: skip
@SHAPE
@FORCE
def init(model: Path, out: Path, head_room: float, shapes: tuple[str, ...], force: bool) -> None:
    """Write a commented jettison.toml whose budgets are a model's figures of today, with some head room."""
    from toolchain.files import check_new, write_text
    from toolchain.gate.beginning import written

    check_new(out, force)
    write_text(out, written(model, out, head_room / 100, parse_shapes(shapes)))
    click.echo(f"wrote {out}")
