"""One torch program converted to TFLite by litert-torch 0.10 and run beside torch: prints one JSON line.

    ITS_PYTHON -m benchmarks.rivals.litert_torch_case PROGRAM.pt2

It runs in an environment with litert-torch alone, which takes no ONNX: PROGRAM.pt2 is what torch.export makes of a
module, PROGRAM.npz holds its probes. A pruned network that exists as ONNX has no such module of its own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.rivals.onnx2tf_case import EQUAL, compared, peak, probes_of


def case(path: Path) -> dict[str, Any]:
    """What became of one network."""
    import litert_torch
    import torch

    row: dict[str, Any] = {"name": path.stem, "tool": "litert-torch", "base_rss_bytes": peak()}
    begun = time.perf_counter()
    module = torch.export.load(path).module()
    probes = [tuple(map(torch.from_numpy, p)) for p in probes_of(path)]
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "model.tflite")
        litert_torch.convert(module, probes[0]).export(str(made))
        row |= {"seconds": time.perf_counter() - begun, "peak_rss_bytes": peak(), "file_bytes": made.stat().st_size}
        errors, row["moves"] = compared(made, path, [[module(*p).detach().numpy()] for p in probes])
    return row | {"error": max(errors), "status": "converted" if max(errors) <= EQUAL else "wrong"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    print("\n" + json.dumps(case(parser.parse_args().path)))


if __name__ == "__main__":
    main()
