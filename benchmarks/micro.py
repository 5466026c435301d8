"""TFLite Micro: the arena that we plan next to the one that its interpreter reports, and its answers next to LiteRT's.

    python -m benchmarks.micro [--int8] [--samples 64] [--data NAME.onnx=SAMPLES.npz]... FILE.onnx...

Prints one JSON line a network and a summary; FILE.npz beside a file, or what --data says, holds its samples (probes
p0_x0 … of a corpus, or x). Each network is emitted with --profile micro and run in the interpreter of tflite-micro in
a process of its own. gap: of the largest output, in steps of the output's scale for int8.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from toolchain.emit import to_tflite
from toolchain.emit.contents import contents
from toolchain.emit.micro import arena
from toolchain.emit.micro_run import micro_run
from toolchain.emit.quantise import quantise
from toolchain.emit.run import lite_outputs
from toolchain.errors import JettisonError
from toolchain.model import Model, load
from toolchain.verify import probes

Feeds = Mapping[str, np.ndarray[Any, Any]]
CALIBRATION = 256


def samples(model: Model, source: Path | None) -> Feeds:
    """Samples of a file: those of a data set, the probes of a corpus, or seeded noise."""
    if source is None or not source.exists():
        return probes(model)
    with np.load(source, allow_pickle=False) as stored:
        if "p0_x0" in stored.files:
            count = len({k.split("_")[0] for k in stored.files})
            return {k: np.concatenate([stored[f"p{j}_x{i}"] for j in range(count)]) for i, k in enumerate(model.inputs)}
        return {k: stored[k if k in stored.files else "x"].astype(np.float32) for k in model.inputs}


def row(path: Path, source: Path | None, is_int8: bool, count: int) -> dict[str, Any]:
    """What is known of one network."""
    told: dict[str, Any] = {"name": path.stem, "form": "tflite-int8" if is_int8 else "tflite"}
    try:
        model = load(path)
        feeds = samples(model, source)
        if is_int8:
            known = {k: x[:CALIBRATION] for k, x in feeds.items()}
            data = quantise(model, "tflite-int8", known, known, profile="micro").data
        else:
            data = to_tflite(model, profile="micro").data
        file, planned = contents(data), arena(data)
        told |= {"bytes": len(data), "ops": len(file.ops), "planned": planned.head_bytes}
        with tempfile.TemporaryDirectory(prefix="jettison-") as folder:
            emitted = Path(folder, "net.tflite")
            emitted.write_bytes(data)
            used = {k: x[-count:] for k, x in feeds.items()}
            found, wanted = micro_run(emitted, used), lite_outputs(emitted, used)
    except JettisonError as error:
        return told | {"status": "refused" if error.exit_code == 4 else "failed", "reason": str(error)[:300]}
    gaps = {}
    for name, y in wanted.items():
        scale = file.tensors[file.outputs[name]].scale or float(np.abs(y).max()) or 1.0
        gaps[name] = float(np.abs(found.outputs[name] - y).max()) / scale
    first = next(iter(wanted))
    flat = [np.reshape(y[first], (len(y[first]), -1)) for y in (found.outputs, wanted)]
    same = float((flat[0].argmax(1) == flat[1].argmax(1)).mean())
    told |= {"reported": found.head_bytes, "gap": max(gaps.values()), "same_answer": same, "samples": len(flat[0])}
    return told | {"status": "equal" if found.head_bytes == planned.head_bytes else "different"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--data", action="append", default=[], metavar="NAME.onnx=SAMPLES.npz")
    given = parser.parse_args()
    beside = dict(pair.split("=", 1) for pair in given.data)
    rows = []
    for path in given.files:
        source = Path(beside.get(path.name, path.with_suffix(".npz")))
        rows.append(row(path, source, given.int8, given.samples))
        print(json.dumps(rows[-1]), flush=True)
    ran = [r for r in rows if "gap" in r]
    summary: dict[str, Any] = {"networks": len(rows), **Counter(r["status"] for r in rows)}
    if ran:
        gaps = sorted(r["gap"] for r in ran)
        summary |= {"median gap": gaps[len(gaps) // 2], "largest gap": gaps[-1]}
        summary |= {"least same answer": min(r["same_answer"] for r in ran)}
    print(json.dumps({"summary": summary}))


if __name__ == "__main__":
    main()
