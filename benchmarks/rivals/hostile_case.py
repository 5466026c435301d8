"""Another tool on files that mean harm, each run in a child with limits: answers every line of standard input.

    python -m benchmarks.rivals.hostile_case polygraphy-inspect | polygraphy-sanitize | onnxslim

It runs in an environment with Polygraphy 0.53.6, onnx-graphsurgeon and onnxslim 0.1.98 alone. A line is a request of
benchmarks.hostile.children, whose words are the file to read and the one to write.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

from benchmarks.hostile.children import serve


def polygraphy(*words: str) -> None:
    from polygraphy.tools import main

    sys.argv = ["polygraphy", *words]
    sys.exit(main())


def slim(given: str, made: str) -> None:
    from onnxslim.cli import main

    sys.argv = ["onnxslim", given, made]
    sys.exit(main())


TOOLS: dict[str, Callable[[list[str]], object]] = {
    "polygraphy-inspect": lambda w: polygraphy("inspect", "model", w[0]),
    "polygraphy-sanitize": lambda w: polygraphy("surgeon", "sanitize", w[0], "--fold-constants", "-o", w[1]),
    "onnxslim": lambda w: slim(*w),
}

if __name__ == "__main__":
    import onnx
    import onnxruntime  # noqa: F401
    import onnxslim.cli  # noqa: F401
    import polygraphy.tools

    assert onnx
    gc.freeze()
    serve(TOOLS[sys.argv[1]])
