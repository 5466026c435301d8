"""Runs a TFLite file on TensorFlow Lite Micro, in a process of its own: it aborts where LiteRT would say no.

micro_child.py MODEL FEEDS.npz OUTPUTS.npz COUNT_OF_OUTPUTS ARENA_BYTES. Feeds 0, 1 … are the file's inputs in its
order, types and axes, one row for each call; so are the outputs. What the allocator used is told on stderr.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


def run(path: str, feeds: list[Any], outputs: int, arena_bytes: int) -> list[Any]:
    """Outputs in the file's order, [calls, *shape]."""
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_file(path, arena_size=arena_bytes)
    calls: list[list[Any]] = []
    for rows in zip(*feeds, strict=True):
        interpreter.reset()  # an LSTM's state belongs to one call
        for i, x in enumerate(rows):
            interpreter.set_input(x, i)
        interpreter.invoke()
        calls.append([interpreter.get_output(i) for i in range(outputs)])
    interpreter.print_allocations()
    return [np.stack(ys) for ys in zip(*calls, strict=True)]


if __name__ == "__main__":
    with np.load(sys.argv[2]) as stored:
        given = [stored[str(i)] for i in range(len(stored.files))]
    found = {str(i): y for i, y in enumerate(run(sys.argv[1], given, int(sys.argv[4]), int(sys.argv[5])))}
    np.savez(sys.argv[3], **found)
