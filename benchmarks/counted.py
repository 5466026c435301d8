"""Instructions per inference on the virtual Cortex-A53 board, and what they tell: grade "counted", not a time.

    jettison targets setup qemu-a53
    python -m benchmarks.counted [--only repeat|networks] [--networks NAME…] [--msl5 FILE] [--out FILE]

repeat    two models, three boots each: how far apart the counts lie, how far the answers are from this computer's, and
          the wall time from power-on to the result
networks  100, 50 and 10 % of the multiply-accumulates kept: speed-up under counting against what was saved

Ranked by magnitude, aligned widths. Inputs are the agent's noise. int8 files are calibrated on noise too: for counting.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.alignment import Network
from benchmarks.networks import files
from targets.link import Address
from targets.measure import Measurement, RunnerError
from targets.ssh import measure_over_ssh
from targets.virtual import measure_virtual, virtual_board
from toolchain.emit.quantise import QUANTISED, quantise
from toolchain.errors import OutOfReach
from toolchain.model import load
from toolchain.shipped import triangles_squares_path

ROOT = Path(__file__).resolve().parents[1]
MNIST = ROOT / "../shared/models/mnist_cntk/mnist_cntk.onnx"
BOARD = "qemu-a53"
SHARES = (100, 50, 10)  # per cent of the multiply-accumulates that stay
BOOTS = 3
PATIENCE_S = 1800.0


def counted(address: Address, model: Path, runtime: str, tolerance: float = 1e-5) -> Measurement:
    """Two inferences after one warm-up on a board that runs already."""
    (found,) = measure_over_ssh(
        [(model, runtime)],
        address,
        target=BOARD,
        runs=2,
        warmup=1,
        rounds=1,
        timeout_s=PATIENCE_S,
        tolerance=tolerance,
        grade="counted",
    )
    return found


def repeat(networks: list[Network]) -> Iterator[dict[str, Any]]:
    """The first two networks, each time on a board booted anew."""
    for net in networks[:2]:
        whole, _ = net.original()
        counts, seconds = [], []
        for _ in range(BOOTS):
            begun = time.monotonic()
            (found,) = measure_virtual([(whole, "ort")], BOARD)
            seconds.append(time.monotonic() - begun)
            counts.append(found)
        middle = [c.ns.p50 for c in counts]
        yield {
            "network": net.name,
            "instructions": middle,
            "apart %": round(100 * (max(middle) - min(middle)) / min(middle), 3),
            "largest difference of an answer": max(c.output_difference or 0.0 for c in counts),
            "boot to result s": [round(s, 1) for s in seconds],
        }


def forms(net: Network, path: Path, is_whole: bool) -> Iterator[tuple[str, str, Path]]:
    """(arithmetic, runtime, file) of what was cut to `path`; int8 of the whole network only."""
    yield "float32", "ort", path
    yield "float32", "litert", net.lite(path)
    if is_whole:
        model = load(path)
        random = np.random.default_rng(0)
        noise = {name: random.standard_normal((8, *s)).astype(np.float32) for name, s in model.inputs.items()}
        for form, runtime in (("onnx-int8", "ort"), ("tflite-int8", "litert")):
            file = net.folder / QUANTISED[form].file(net.name)
            file.write_bytes(quantise(model, form, noise, noise).data)
            yield "int8", runtime, file


def table(networks: list[Network]) -> Iterator[dict[str, Any]]:
    """A row for each file; the speed-up is over the whole network in the same runtime, both counted."""
    with virtual_board(BOARD) as address:
        for net in networks:
            whole: dict[str, tuple[float, float]] = {}
            for share in SHARES:
                try:
                    path, macs = net.original() if share == 100 else net.cut(f"macs<={share}%", "auto")
                except OutOfReach as error:
                    yield {"network": net.name, "MACs kept %": share, "error": str(error)}
                    continue
                for arithmetic, runtime, file in forms(net, path, share == 100):
                    row: dict[str, Any] = {
                        "network": net.name, "MACs kept %": share, "arithmetic": arithmetic, "runtime": runtime,
                        "MMAC": round(macs / 1e6, 3),
                    }  # fmt: skip
                    try:
                        # one step of an int8 layer inside may be much of an answer
                        m = counted(address, file, runtime, math.inf if arithmetic == "int8" else 1e-5)
                    except RunnerError as error:
                        yield row | {"error": str(error)}
                        continue
                    dense = whole.setdefault(runtime, (m.ns.p50, macs))
                    yield row | {
                        "M instructions": round(m.ns.p50 / 1e6, 3),
                        "per MAC": round(m.ns.p50 / macs, 3),
                        "speed-up ×": round(dense[0] / m.ns.p50, 2),
                        "MACs ÷": round(dense[1] / macs, 2),
                        "M instructions to load": round(m.init_ns / 1e6, 1),
                        "peak MiB": round((m.peak_rss_bytes or 0) / 2**20, 1),
                        "answer off by": float(f"{m.output_difference:.2g}"),
                    }


PARTS = {"repeat": repeat, "networks": table}


def chosen(names: list[str] | None, msl5: Path | None) -> dict[str, Path]:
    """{network: file}, smallest first; those whose file is not here are told and left out."""
    known = {"shipped": triangles_squares_path(), "MNIST-CNN": MNIST, "MobileNetV2": files()["MobileNetV2"]}
    known |= {"MSL AlexNet-5": msl5} if msl5 is not None else {}
    for name in set(names or ()) - known.keys():
        raise SystemExit(f"no network {name}; there are {', '.join(known)}")
    wanted = {name: path for name, path in known.items() if not names or name in names}
    for name, path in wanted.items():
        if not path.is_file():
            print(f"{name} left out: {path} is not here")
    return {name: path for name, path in wanted.items() if path.is_file()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(PARTS), action="append")
    parser.add_argument("--networks", nargs="*", help="Some of the networks.")
    parser.add_argument("--msl5", type=Path, help="ONNX file that reproduce.train_msl5 wrote.")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        networks = [Network.read(name, file, Path(folder)) for name, file in chosen(asked.networks, asked.msl5).items()]
        for part in asked.only or PARTS:
            print(f"\n{part}\n")
            for row in PARTS[part](networks):
                if part not in results:
                    print("| " + " | ".join(row) + " |\n|" + "---|" * len(row))
                results.setdefault(part, []).append(row)
                print("| " + " | ".join(map(str, row.values())) + " |", flush=True)
    if asked.out is not None:
        asked.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
