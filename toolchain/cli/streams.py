"""Standard output and error that outlive their readers and any locale.

A reader that went away must neither hide a failure nor end a command before its files are whole; a terminal of another
encoding must not turn a name into an error.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import Any, TextIO


class Lasting(io.FileIO):
    """A stream that goes on without its reader: from then on what is written goes nowhere."""

    def write(self, data: Any) -> int:
        """As a file writes, but never a broken pipe."""
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return super().write(data)


def lasting(stream: Any, number: int, errors: str) -> TextIO:
    """The stream of this number, or nowhere for one that was closed; UTF-8 where the locale is ASCII, as click does.

    errors  what becomes of characters that its encoding lacks
    """
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    raw = Lasting(number, "wb", closefd=False)
    encoding = "utf-8" if codecs.lookup(stream.encoding).name == "ascii" else stream.encoding
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=stream.line_buffering)


def make_lasting() -> None:
    """Standard output and error last; streams that somebody put in their place are left alone."""
    if sys.stdout is sys.__stdout__:
        sys.stdout = lasting(sys.stdout, 1, "replace")  # columns stay in line
    if sys.stderr is sys.__stderr__:
        sys.stderr = lasting(sys.stderr, 2, "backslashreplace")
