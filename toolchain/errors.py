"""Errors that a user can act on: what is wrong, where, and a way out, in one line; each child has its exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class JettisonError(Exception):
    """A user's mistake or a limit of ours, told in one line.

    what     what is wrong, without a full stop
    where    the node, tensor, axis or file, or "" when `what` names it
    way_out  what the user can do about it, or ""
    """

    exit_code = 2

    def __init__(self, what: str, where: str = "", way_out: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.way_out = what, where, way_out

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        return printable(f"{line}. {self.way_out}" if self.way_out else line)


class UsageError(JettisonError):
    """The command line or the configuration is wrong."""

    exit_code = 2


class BadInput(JettisonError):
    """A model, data, rank or plan file cannot be used."""

    exit_code = 3


class Unsupported(JettisonError):
    """An op or a pattern that the asked-for stage cannot pass."""

    exit_code = 4


class OutOfReach(JettisonError):
    """No plan meets the budget; says the best reachable."""

    exit_code = 5


class RunnerFailed(JettisonError):
    """A board, a runtime or its child process failed."""

    exit_code = 6


class GateFailed(JettisonError):
    """A check, a proof or a regression gate said no."""

    exit_code = 1


def nearest(name: str, known: Iterable[str]) -> str:
    """A way out that names what was meant, or some of what there is."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    told = ", ".join(f"'{n}'" for n in close or names[:12])
    return f"Did you mean {told}?" if close else f"There are {told}{' …' if len(names) > 12 else ''}"


def printable(text: str) -> str:
    """`text` on one line with control characters escaped: names inside model files are not to be trusted.

    Nor does it hold `##[`, which GitHub takes for a command wherever it stands in a line.
    """
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return line.replace("##[", "#\\x23[")
