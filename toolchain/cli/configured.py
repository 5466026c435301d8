"""What jettison.toml says to commands, where the command line and the environment say nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from toolchain.config import ConfigFile

KEYS = {  # parameters that the file sets in every command that has them, and where they stand there
    "model": "model.path",
    "models": "model.path",
    "shapes": "model.input",
    "data": "data.calibration",
    "calibration": "data.calibration",
    "validation": "data.validation",
    "held_out": "data.validation",
    "tests": "data.validation",
    "pixels": "data.pixels",
    "budget": "prune.budget",
    "align": "prune.align",
    "keep": "prune.keep",
}
OTHERWISE = {("export", "data"): "data.validation"}  # what files are checked on, beside their calibration
ALONE = ("demo", "init")  # one brings its own network, the other writes the file


def keys(command: click.Command) -> dict[str, str]:
    """Where the parameters of a command stand in the file.

    A model that another argument follows is none of them: the command line could not say which of the two it gives.
    """
    is_followed = sum(isinstance(p, click.Argument) for p in command.params) > 1
    names = {p.name for p in command.params} - ({"model"} if is_followed else set())
    told = {name: OTHERWISE.get((str(command.name), name), key) for name, key in KEYS.items() if name in names}
    return {} if command.name in ALONE else told


def defaults(context: click.Context) -> dict[str, dict[str, Any]]:
    """click's default map for the command that a group is about to call; raises UsageError for a file with mistakes.

    The path of its model and the names of classes, which no parameter is, come into the context's object.
    """
    name, group = context.invoked_subcommand, context.command
    command = group.commands.get(name or "") if isinstance(group, click.Group) else None
    wanted = {} if command is None else keys(command)
    if name is None or command is None or not wanted:
        return {}
    from toolchain.config import NAME, read_config

    path = context.obj["config"]
    if path is None and not Path(NAME).exists() and not Path("pyproject.toml").exists():
        return {}
    file = read_config(path)
    if file is None:
        return {}
    known = values(file)
    context.obj |= {"classes": file.config.model.classes, "configured": known["model.path"]}
    several = {p.name for p in command.params if p.nargs < 0 or getattr(p, "multiple", False)}
    given = {name: known[key] for name, key in wanted.items() if known.get(key)}
    return {name: {n: [v] if n in several and isinstance(v, str) else v for n, v in given.items()}}


def values(file: ConfigFile) -> dict[str, Any]:
    """Keys of the file as the command line would give them."""
    model, data, cut = file.config.model, file.config.data, file.config.prune
    paths = {"model.path": model.path, "data.calibration": data.calibration, "data.validation": data.validation}
    return {key: None if path is None else str(file.beside(path)) for key, path in paths.items()} | {
        "model.input": [f"{name}:{','.join(map(str, shape))}" for name, shape in model.input.items()],
        "data.pixels": data.pixels,
        "prune.budget": cut.budget,
        "prune.align": None if cut.align is None else str(cut.align),
        "prune.keep": list(cut.keep),
    }


def own_shapes(context: click.Context, option: click.Parameter, shapes: tuple[str, ...]) -> tuple[str, ...]:
    """Shapes of inputs, without those that the file says of another model than the command line's."""
    asked = context.params.get("model") or next(iter(context.params.get("models") or ()), None)
    own = (context.obj or {}).get("configured")
    source = context.get_parameter_source(str(option.name))
    if source is not click.core.ParameterSource.DEFAULT_MAP or not asked or not own:
        return shapes
    return shapes if Path(asked).resolve() == Path(own).resolve() else ()


def unless_given(name: str, value: Any, *others: Any) -> Any:
    """A parameter; None if it comes from the file while the command line gives one of the others in its place."""
    source = click.get_current_context().get_parameter_source(name)
    return None if source is click.core.ParameterSource.DEFAULT_MAP and any(others) else value
