"""Another tool on files that mean harm, each run in a child with limits: answers every line of standard input.

    python -m benchmarks.rivals.hostile_case polygraphy-inspect | polygraphy-sanitize | onnxslim | onnxruntime

It runs in an environment with Polygraphy 0.53.6, onnx-graphsurgeon and onnxslim 0.1.98 alone. A line is a request of
benchmarks.hostile.children, whose words are the file to read and the one to write.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Callable

from benchmarks.hostile.children import serve


def of_polygraphy(*words: str) -> None:
    from polygraphy.tools import main

    sys.argv = ["polygraphy", *words]
    sys.exit(main())


def of_onnxslim(given: str, made: str) -> None:
    from onnxslim.cli import main

    sys.argv = ["onnxslim", given, made]
    sys.exit(main())


def of_onnxruntime(given: str) -> None:
    """One inference of random numbers; open dimensions are 1."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    draw, kinds = np.random.default_rng(0), {"tensor(float16)": np.float16, "tensor(double)": np.float64}
    shapes = {i.name: ([d if isinstance(d, int) else 1 for d in i.shape], i.type) for i in session.get_inputs()}
    session.run(None, {k: draw.standard_normal(s).astype(kinds.get(t, np.float32)) for k, (s, t) in shapes.items()})


TOOLS: dict[str, Callable[[list[str]], object]] = {
    "polygraphy-inspect": lambda w: of_polygraphy("inspect", "model", w[0]),
    "polygraphy-sanitize": lambda w: of_polygraphy("surgeon", "sanitize", w[0], "--fold-constants", "-o", w[1]),
    "onnxslim": lambda w: of_onnxslim(*w),
    "onnxruntime": lambda w: of_onnxruntime(w[0]),
}

if __name__ == "__main__":
    for module in ("onnx", "onnxruntime", "onnxslim.cli", "polygraphy.tools"):
        importlib.import_module(module)  # once, for all children
    gc.freeze()
    serve(TOOLS[sys.argv[1]])
