"""One network converted to TFLite by onnx2tf 1.29.24 and compared with onnxruntime: prints one JSON line.

    python -m benchmarks.corpus FOLDER --out onnx2tf.jsonl --jobs 1 --python ITS_PYTHON \\
        --module benchmarks.rivals.onnx2tf_case

It runs in an environment with onnx2tf alone. Without a network it needs the file of sample images that it would fetch,
whose contents matter only to its own checks: random numbers of that shape stand in. Names are not copied,
which would cost it more time: outputs are matched by what they hold. Its inputs and outputs are channels last where it
chose so: an array is turned where its shape does not fit otherwise. It writes a SavedModel and a float16 file as well,
which it cannot be told to leave out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

SAMPLES = "calibration_image_sample_data_20x128x128x3_float32.npy"
EQUAL = 1e-5
Array = np.ndarray[Any, Any]


def case(path: Path) -> dict[str, Any]:
    """What became of one network."""
    path = path.absolute()
    row: dict[str, Any] = {"name": path.stem, "tool": "onnx2tf", "bytes": path.stat().st_size}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        np.save(SAMPLES, np.random.default_rng(0).random((20, 128, 128, 3), np.float32))
        try:
            import onnx2tf

            row["base_rss_bytes"] = peak()
            begun = time.perf_counter()
            onnx2tf.convert(
                input_onnx_file_path=str(path),
                output_folder_path="out",
                non_verbose=True,
            )
        except (Exception, SystemExit) as error:  # the rival's crash is a result
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            return row | {"status": "crashed", "reason": reason, "peak_rss_bytes": peak()}
        row |= {"seconds": time.perf_counter() - begun, "peak_rss_bytes": peak()}
        made = Path("out", f"{path.stem}_float32.tflite")
        row |= {"file_bytes": made.stat().st_size, "reason": ""}
        wanted = originals(path)
        try:
            errors, row["moves"] = compared(made, path, wanted)
        except ValueError as error:
            return row | {"status": "shapes", "reason": str(error)[:200]}
        row |= {"error": max(errors), "status": "converted" if max(errors) <= EQUAL else "wrong"}
    return row


def peak() -> int:
    """Peak resident memory of this process."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def probes_of(path: Path) -> list[list[Array]]:
    """Inputs of each probe, in the order of the graph's inputs."""
    with np.load(path.with_suffix(".npz")) as file:
        count = sum(k.endswith("_x0") for k in file.files)
        inputs = sum(k.startswith("p0_x") for k in file.files)
        return [[file[f"p{i}_x{j}"] for j in range(inputs)] for i in range(count)]


def originals(path: Path) -> list[list[Array]]:
    """What onnxruntime answers on the file."""
    import onnxruntime as ort

    runner = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [i.name for i in runner.get_inputs()]
    return [runner.run(None, dict(zip(names, p, strict=True))) for p in probes_of(path)]


def compared(made: Path, path: Path, wanted: list[list[Array]]) -> tuple[list[float], int]:
    """Relative errors of all outputs, and how often the file transposes."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(made), num_threads=1)
    runner.allocate_tensors()
    errors = []
    for probe, goal in zip(probes_of(path), wanted, strict=True):
        for detail, x in zip(runner.get_input_details(), probe, strict=True):
            runner.set_tensor(detail["index"], fitted(x, tuple(detail["shape"])))
        runner.invoke()
        found = [runner.get_tensor(d["index"]) for d in runner.get_output_details()]
        errors += [apart(y, found) for y in goal]
    codes = Counter(d["op_name"] for d in runner._get_ops_details())
    return errors, codes["TRANSPOSE"]


def apart(wanted: Array, found: list[Array]) -> float:
    """The distance to the nearest output, which says which one is meant."""
    turned = [y.transpose(p) for y in found if y.ndim == wanted.ndim for p in itertools.permutations(range(y.ndim))
              if tuple(y.shape[a] for a in p) == wanted.shape]  # fmt: skip
    if not turned:
        raise ValueError(f"no output has the shape {wanted.shape}")
    return min(float(np.abs(y - wanted).max() / max(np.abs(wanted).max(), 1e-30)) for y in turned)


def fitted(x: Array, shape: tuple[int, ...]) -> Array:
    """The array as it is, or channels last."""
    if x.shape == shape:
        return x
    turned = np.moveaxis(x, 1, -1)
    if turned.shape != shape:
        raise ValueError(f"an input wants {shape}, the probe is {x.shape}")
    return np.ascontiguousarray(turned)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    print("\n" + json.dumps(case(parser.parse_args().path)))


if __name__ == "__main__":
    main()
