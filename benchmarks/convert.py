"""Reads an ONNX file, writes it as float32 TFLite, and prints what that took: one cold process of `benchmarks.convert`.

python -m benchmarks.convert NETWORK.onnx OUT.tflite
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from toolchain.emit import to_tflite
from toolchain.model import load


def main() -> None:
    begun = time.perf_counter()
    model = load(sys.argv[1])
    loaded = time.perf_counter()
    to_tflite(model).write(Path(sys.argv[2]))
    print(json.dumps({"read_s": loaded - begun, "seconds": time.perf_counter() - begun}))


if __name__ == "__main__":
    main()
