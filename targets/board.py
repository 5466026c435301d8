"""Boards as descriptors: what a processor is, each figure with the page that says so and how far to trust it.

`boards/NAME.toml` are those that come with jettison; a path that ends in .toml is read as well, so a user's own board
is a file. A figure that no public page gives is absent, and whatever would need it says so: nothing here is guessed.
"""

from __future__ import annotations

import difflib
import functools
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

FOLDER = Path(__file__).parent / "boards"

Confidence = Literal[
    "high", "medium", "low"
]  # the maker's own page; a page about it; an argument from the architecture
Said = Annotated[str, msgspec.Meta(min_length=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class BoardError(ValueError):
    """There is no such board, or its descriptor is wrong; one line with a way out."""


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of a descriptor: a key that nobody reads is a mistake, not a comment."""


class Figure(Strict, frozen=True):
    """A number with its source; bytes, hertz, bytes per second or a plain count, as its key says; 0 is "has none"."""

    value: Count
    source: Said
    confidence: Confidence


class Range(Strict, frozen=True):
    """A figure known only to lie between two bounds, both included."""

    low: Annotated[float, msgspec.Meta(gt=0)]
    high: float
    source: Said
    confidence: Confidence

    def __post_init__(self) -> None:
        if self.high < self.low:
            raise ValueError(f"high {self.high:g} is below low {self.low:g}")


class Runtime(Strict, frozen=True):
    """A runtime that can be had for the board: `wheel` is its platform tag, or None if it does not come as one."""

    name: Literal["ort", "litert", "tflite", "micro"]
    package: Said
    source: Said
    wheel: str | None = None


class Board(Strict, frozen=True):
    """A processor on a board, as its file describes it.

    runner       how models get there: on this computer, over SSH, on an emulated board, or not at all
    kernels      names in `targets.kernels.KERNELS`, the one an estimate takes first
    in_place     weights are read from flash where they lie and take no RAM
    cpi          cycles per instruction of one core in neural kernels, instructions as those kernels count them
    bandwidth_bytes_per_s   peak of the main memory
    l1d_bytes    per core; l2_bytes and l3_bytes altogether
    """

    name: Said
    title: Said
    core: Said
    isa: Said
    endian: Literal["little", "big"]
    runner: Literal["local", "ssh", "virtual", "none"]
    kernels: tuple[str, ...] = ()
    in_place: bool = False
    runtimes: tuple[Runtime, ...] = ()
    cores: Figure | None = None
    clock_hz: Figure | None = None
    l1i_bytes: Figure | None = None
    l1d_bytes: Figure | None = None
    l2_bytes: Figure | None = None
    l3_bytes: Figure | None = None
    bandwidth_bytes_per_s: Figure | None = None
    ram_bytes: Figure | None = None
    flash_bytes: Figure | None = None
    cpi: Range | None = None

    def __post_init__(self) -> None:
        for key in ("clock_hz", "cores"):
            figure = getattr(self, key)
            if figure is not None and figure.value == 0:
                raise ValueError(f"{key} is 0")

    def facts(self) -> dict[str, Figure | Range]:
        """The figures that are known, by key, in the order of the schema."""
        found = {key: getattr(self, key) for key in self.__struct_fields__}
        return {key: value for key, value in found.items() if isinstance(value, (Figure, Range))}

    def cache_bytes(self) -> int | None:
        """The last level of cache; None where it is not known whether there is a second."""
        levels = [f.value for f in (self.l1d_bytes, self.l2_bytes, self.l3_bytes) if f is not None]
        return max(levels) if self.l2_bytes is not None else None


TABLES: dict[str, type[Strict]] = {"": Board, "cpi": Range, "runtimes": Runtime}  # every other table is a Figure


def board(name: str) -> Board:
    """The board of this name, or in this .toml file; BoardError if there is none or its descriptor is wrong."""
    if name.endswith(".toml"):
        return read(Path(name))
    if name not in names():
        raise BoardError(f"there is no board '{name}'. {meant(name, names())}")
    return read(FOLDER / f"{name}.toml")


def boards() -> dict[str, Board]:
    """Every board that comes with jettison, by name."""
    return {name: board(name) for name in names()}


@functools.cache
def names() -> tuple[str, ...]:
    """Names of the boards that come with jettison."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def read(path: Path) -> Board:
    """The descriptor in a file; BoardError says what in it is wrong."""
    try:
        found = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Board)
    except OSError as error:
        raise BoardError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BoardError(f"{path.name} is no TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise BoardError(f"{path.name}: {explained(str(error))}") from error
    if found.name != path.stem:
        raise BoardError(f"{path.name}: name is '{found.name}'. Call it as its file")
    return found


def explained(error: str) -> str:
    """msgspec's complaint in a person's words, with what was meant where a key is unknown."""
    text, _, place = error.partition(" - at `$")
    where = place.rstrip("`").lstrip(".")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", text)
    if unknown is None:
        return f"{where}: {text}" if where else text
    table = where.partition("[")[0]
    known: tuple[str, ...] = TABLES.get(table, Figure).__struct_fields__
    return f"{f'[{table}]' if table else 'it'} has no key '{unknown[1]}'. {meant(unknown[1], known)}"


def meant(name: str, known: Iterable[Any]) -> str:
    """A way out that names what was probably meant, or what there is."""
    options = [str(k) for k in known]
    close = difflib.get_close_matches(name, options, n=3, cutoff=0.5)
    told = ", ".join(f"'{k}'" for k in close or options)
    return f"Did you mean {told}?" if close else f"There are {told}"
