"""What jettison.toml says to the commands of the job, where the command line and the environment say nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from toolchain.config import ConfigFile

MODEL, DATA, CUT = ("model", "shapes"), ("data", "pixels"), ("budget", "align", "keep")
COMMANDS: dict[str, tuple[str, ...]] = {  # their parameters that the file may set
    "compress": (*MODEL, *DATA, *CUT, "held_out"),
    "prune": (*MODEL, *CUT),
    "rank": (*MODEL, *DATA),
    "inspect": MODEL,
    "groups": MODEL,
}


def defaults(command: str | None, path: Path | None) -> dict[str, dict[str, Any]]:
    """click's default map for a command; raises UsageError for a file with mistakes."""
    if command not in COMMANDS:
        return {}
    from toolchain.config import NAME, read_config

    if path is None and not Path(NAME).exists() and not Path("pyproject.toml").exists():
        return {}
    file = read_config(path)
    known = {} if file is None else values(file)
    return {command: {name: known[name] for name in COMMANDS[command] if known.get(name)}}


def values(file: ConfigFile) -> dict[str, Any]:
    """Parameters of commands as the command line would give them."""
    model, data, cut = file.config.model, file.config.data, file.config.prune
    paths = {"model": model.path, "data": data.calibration, "held_out": data.validation}
    here = {name: None if path is None else str(file.beside(path)) for name, path in paths.items()}
    return here | {
        "held_out": [here["held_out"]] if here["held_out"] else [],
        "shapes": [f"{name}:{','.join(map(str, shape))}" for name, shape in model.input.items()],
        "pixels": data.pixels,
        "budget": cut.budget,
        "align": None if cut.align is None else str(cut.align),
        "keep": list(cut.keep),
    }


def unless_given(name: str, value: Any, *others: Any) -> Any:
    """A parameter; None if it comes from the file while the command line gives one of the others in its place."""
    source = click.get_current_context().get_parameter_source(name)
    return None if source is click.core.ParameterSource.DEFAULT_MAP and any(others) else value
