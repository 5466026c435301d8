"""jettison.toml, or [tool.jettison] of pyproject.toml: every key known and of its type, and each with its line.

tomllib tells no lines. The statement that brings an entry about begins where a prefix of the file that is TOML lacks
the entry, and the next one that is TOML has it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec

from toolchain.errors import UsageError, nearest
from toolchain.files import read_bytes

NAME = "jettison.toml"
LARGEST = 1 << 20  # bytes
Key = str | int
Amount = int | float | str


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file."""


class ModelTable(Table, frozen=True):
    """The dense network: input gives full shapes, with the batch, where the file leaves them open."""

    path: str | None = None
    input: dict[str, tuple[Annotated[int, msgspec.Meta(ge=1)], ...]] = {}
    classes: tuple[str, ...] = ()


class DataTable(Table, frozen=True):
    """Samples: .npz, a folder for each class, or .csv; pixels says how images become numbers."""

    calibration: str | None = None
    validation: str | None = None
    pixels: Literal["unit", "raw", "imagenet"] = "unit"


class PruneTable(Table, frozen=True):
    """What compress and prune are asked for."""

    budget: str | None = None
    align: str | int | None = None
    keep: tuple[str, ...] = ()


class Instructions(Table, frozen=True):
    """Instructions of one inference, counted on an emulated board."""

    max: Amount
    target: str = "qemu-a53"


class Latency(Table, frozen=True):
    """A time of one inference on a target that has a clock."""

    max: Amount
    target: str = "local"
    stat: Literal["min", "mean", "p50", "p90", "p95", "p99", "max"] = "p50"
    tolerance: str = "15%"
    repeats: Annotated[int, msgspec.Meta(ge=1)] = 5
    threads: Annotated[int, msgspec.Meta(ge=1)] = 1


class Accuracy(Table, frozen=True):
    """Shares in 0..1; data is a key of [data] or a path."""

    data: str = "validation"
    min: float | None = None
    max_drop: float | None = None


class Regress(Table, frozen=True):
    """How much more than in the baseline is let pass, in percent; latency and accuracy are refused with a way out."""

    flash: str | None = None
    ram: str | None = None
    params: str | None = None
    macs: str | None = None
    instructions: str | None = None
    latency: str | None = None
    accuracy: str | None = None
    baseline: str | None = None


class Budget(Table, frozen=True):
    """Limits of one file."""

    model: str | None = None
    flash: Amount | None = None
    ram: Amount | None = None
    params: Amount | None = None
    macs: Amount | None = None
    instructions: Instructions | Amount | None = None
    latency: Latency | None = None
    accuracy: Accuracy | None = None
    regress: Regress | None = None


class Config(Table, frozen=True):
    """The whole file."""

    model: ModelTable = ModelTable()
    data: DataTable = DataTable()
    prune: PruneTable = PruneTable()
    budget: tuple[Budget, ...] = ()


@dataclass(frozen=True)
class ConfigFile:
    """A file that was read; its paths are relative to its folder.

    root  where its tables lie: () in jettison.toml, ("tool", "jettison") in pyproject.toml
    """

    path: Path
    text: str
    root: tuple[Key, ...]
    config: Config

    def beside(self, path: str) -> Path:
        """A path of the file as this process sees it."""
        return self.path.parent / path

    def line(self, keys: Sequence[Key]) -> int:
        """Where an entry stands."""
        return line_of(self.text, (*self.root, *keys))


def read_config(path: Path | None = None) -> ConfigFile | None:
    """The file of this name; else jettison.toml here, else pyproject.toml if it has [tool.jettison], else None.

    Raises UsageError, with file and line, for what is no TOML, an unknown key or a wrong type.
    """
    if path is not None:
        return parsed(path)
    if Path(NAME).exists():
        return parsed(Path(NAME))
    project = Path("pyproject.toml")
    if project.is_file() and "jettison" in tables(project)[1].get("tool", {}):
        return parsed(project)
    return None


def parsed(path: Path) -> ConfigFile:
    """One file."""
    text, found = tables(path)
    root: tuple[Key, ...] = ("tool", "jettison") if path.name == "pyproject.toml" else ()
    inner = entry(found, root)
    if inner is None:
        raise UsageError("has no [tool.jettison]", str(path), f"Write one, or a {NAME}")
    return typed(inner, path, text, root)


def typed(tables: Any, path: Path, text: str = "", root: tuple[Key, ...] = ()) -> ConfigFile:
    """Tables whose keys are all known and of their types; raises UsageError.

    path, text  where they stand
    """
    try:
        return ConfigFile(path, text, root, msgspec.convert(tables, Config))
    except msgspec.ValidationError as error:
        raise refusal(path, text, root, str(error)) from error


def tables(path: Path) -> tuple[str, dict[str, Any]]:
    """A file's text and what it says; raises UsageError for what is no TOML."""
    raw = read_bytes(path, "a TOML file")
    if len(raw) > LARGEST:
        raise UsageError(f"is {len(raw):,} bytes, a configuration has {LARGEST:,} at most", str(path))
    try:
        text = raw.decode()
        return text, tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise UsageError("is not UTF-8", str(path), "Save it as UTF-8") from error
    except RecursionError as error:
        raise UsageError("is nested too deep", str(path)) from error
    except ValueError as error:  # TOMLDecodeError, and numbers of thousands of digits
        raise UsageError(f"is no TOML: {error}", str(path)) from error


# ---- what is wrong, and where ---------------------------------------------------------------------------------------
def refusal(path: Path, text: str, root: tuple[Key, ...], said: str) -> UsageError:
    """What msgspec says, in the file's own terms."""
    what, _, place = said.replace(" | null", "").replace("`", "'").partition(" - at '$")
    keys = tuple(int(k) if k.isdigit() else k for k in re.findall(r"[^\W\d]\w*|\d+", place.partition("[...]")[0]))
    unknown = re.fullmatch(r"Object contains unknown field '(.*)'", what, re.DOTALL)
    value = re.fullmatch(r"Invalid enum value '(.*)'", what, re.DOTALL)
    missing = what.replace("Object missing required field", "lacks")
    told, way_out = f"{spoken(keys)}: {missing[0].lower()}{missing[1:]}", ""
    if unknown is not None:
        told = f"{spoken(keys)} has no key '{unknown[1]}'"
        way_out = nearest(unknown[1], [f.name for f in msgspec.structs.fields(kind_at(keys))])
        keys = (*keys, unknown[1])
    elif value is not None:
        told = f"{spoken(keys)} cannot be '{value[1]}'"
        way_out = nearest(value[1], get_args(kind_at(keys)))
    place = f"{path}:{line_of(text, (*root, *keys))}" if text else str(path)
    return UsageError(told, place, way_out)


def spoken(keys: Sequence[Key]) -> str:
    """("budget", 0, "latency") -> "[[budget]] latency"."""
    first, *rest = [k for k in keys if isinstance(k, str)] or ["the file"]
    table = first if not keys else f"[[{first}]]" if first == "budget" else f"[{first}]"
    return " ".join([table, *rest])


def kind_at(keys: Sequence[Key]) -> Any:
    """The type of the table or of the choice at a place."""
    kind: Any = Config
    for key in (k for k in keys if isinstance(k, str)):
        inside = next(f.type for f in msgspec.structs.fields(kind) if f.name == key)
        kind = next((t for t in (inside, *get_args(inside)) if is_table(t)), inside)
    return kind


def is_table(kind: Any) -> bool:
    """Whether a type is one of ours."""
    return isinstance(kind, type) and issubclass(kind, Table)


def entry(found: Any, keys: Sequence[Key]) -> Any:
    """What stands at a place, None if nothing does."""
    for key in keys:
        if isinstance(key, int):
            found = found[key] if isinstance(found, list) and key < len(found) else None
        else:
            found = found.get(key) if isinstance(found, dict) else None
    return found


def line_of(text: str, keys: Sequence[Key]) -> int:
    """The line, from 1, of the statement that brings an entry about; 1 for an entry that no statement does."""
    lines = text.splitlines(keepends=True)
    if not keys or entry(prefix(lines), keys) is None:
        return 1
    name = next(str(k) for k in reversed(keys) if isinstance(k, str))
    starts = [i for i, line in enumerate(lines) if name in line] or range(len(lines))  # an escaped key hides its name
    for start in starts:
        if (before := prefix(lines[:start])) is not None and entry(before, keys) is None:
            ends = (prefix(lines[:end]) for end in range(start + 1, len(lines) + 1))
            if entry(next((e for e in ends if e is not None), None), keys) is not None:
                return start + 1
    return line_of(text, keys[:-1])


def prefix(lines: Sequence[str]) -> dict[str, Any] | None:
    """The first lines of a file as TOML; None within a statement."""
    try:
        return tomllib.loads("".join(lines))
    except ValueError:
        return None
