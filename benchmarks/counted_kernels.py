"""Instructions of kernels on the virtual Cortex-A53 board: for a multiply-accumulate, or for a value written.

    jettison targets setup qemu-a53
    python -m benchmarks.counted_kernels [--only KIND…] [--out FILE]

A case is an op that keeps the shape of its input. It is counted once in a row of LONG and once in a row of SHORT of
them; the difference is what LONG − SHORT of them take, without the call, the copies and changes of layout at both ends.
Weights are seeded, samples noise, one thread; onnxruntime on the ONNX file, LiteRT on ours made of it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from benchmarks.counted import BOARD, counted
from targets.link import Address
from targets.virtual import virtual_board
from toolchain.emit import to_tflite
from toolchain.model import load

SHORT, LONG = 1, 3
SIZES = {
    "narrow": (32, 28, 28),
    "middle": (96, 14, 14),
    "wide": (384, 7, 7),
}  # channels, height, width


@dataclass(frozen=True)
class Case:
    """One op: its inputs beside the running value are drawn of the `weights` shapes."""

    kind: str
    op: str
    shape: tuple[int, ...]
    weights: tuple[tuple[int, ...], ...]
    attributes: dict[str, Any]
    macs: int

    @property
    def values(self) -> int:
        """What the op writes."""
        return int(np.prod(self.shape))


def convolution(kind: str, shape: tuple[int, int, int], kernel: int, groups: int) -> Case:
    """A convolution with a bias that keeps channels, height and width."""
    channels, height, width = shape
    weight = (channels, channels // groups, kernel, kernel)
    return Case(
        kind,
        "Conv",
        (1, *shape),
        (weight, (channels,)),
        {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4, "group": groups},
        int(np.prod(weight)) * height * width,
    )


def cases() -> Iterator[Case]:
    """Those of convolutional networks in three sizes."""
    for shape in SIZES.values():
        yield convolution("convolution 1×1", shape, 1, 1)
        yield convolution("convolution 3×3", shape, 3, 1)
        yield convolution("depthwise 3×3", shape, 3, shape[0])
    for width in (128, 512, 1024):
        yield Case("dense", "Gemm", (1, width), ((width, width), (width,)), {"transB": 1}, width * width)
    for op, attributes in (
        ("LeakyRelu", {"alpha": 0.5}),
        ("Sigmoid", {}),
        ("MaxPool", {"kernel_shape": [3, 3], "pads": [1] * 4}),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1] * 4}),
    ):
        yield Case(f"value: {op}", op, (1, *SIZES["narrow"]), (), attributes, 0)
    yield Case("value: Add", "Add", (1, *SIZES["narrow"]), ((1, *SIZES["narrow"]),), {}, 0)


def network(case: Case, length: int) -> bytes:
    """An ONNX file with so many of an op in a row; weights keep the scale of what runs through."""
    random = np.random.default_rng(0)
    nodes: list[NodeProto] = []
    weights = []
    for number in range(length):
        names = [f"w{number}.{index}" for index in range(len(case.weights))]
        for name, shape in zip(names, case.weights, strict=True):
            fan_in = np.prod(shape[1:]) if len(shape) > 1 else 1
            values = random.standard_normal(shape).astype(np.float32) / np.sqrt(fan_in).astype(np.float32)
            weights.append(numpy_helper.from_array(values, name))
        nodes.append(helper.make_node(case.op, [f"v{number}", *names], [f"v{number + 1}"], **case.attributes))
    ends = [helper.make_tensor_value_info(f"v{end}", TensorProto.FLOAT, case.shape) for end in (0, length)]
    graph = helper.make_graph(nodes, "row", ends[:1], ends[1:], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return made.SerializeToString()


def onnx_file(case: Case, length: int, folder: Path) -> Path:
    """As onnxruntime reads it."""
    path = folder / "row.onnx"
    onnx.save(onnx.load_from_string(network(case, length)), path)
    return path


def lite_file(case: Case, length: int, folder: Path) -> Path:
    """As LiteRT reads it."""
    path = folder / "row.tflite"
    path.write_bytes(to_tflite(load(onnx_file(case, length, folder))).data)
    return path


FILES: dict[str, Callable[[Case, int, Path], Path]] = {"ort": onnx_file, "litert": lite_file}


def row(case: Case, runtime: str, address: Address, folder: Path) -> dict[str, Any]:
    """What one op of a case takes."""
    short, long = (counted(address, FILES[runtime](case, length, folder), runtime).ns.min for length in (SHORT, LONG))
    each = (long - short) / (LONG - SHORT)
    return {
        "kind": case.kind, "shape": "×".join(map(str, case.shape[1:])), "runtime": runtime,
        "instructions": round(each), "per MAC": round(each / case.macs, 3) if case.macs else None,
        "per value": round(each / case.values, 3), "around it": round(short - each),
    }  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The interval of each kind in each runtime."""
    for key in dict.fromkeys((r["kind"], r["runtime"]) for r in rows):
        unit = "per MAC" if "value" not in key[0] else "per value"
        found = [r[unit] for r in rows if (r["kind"], r["runtime"]) == key]
        yield f"{key[1]:6} {key[0]:20} {min(found):.3f} … {max(found):.3f} {unit}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="Kinds that begin with one of these words.")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name, virtual_board(BOARD) as address:
        for case in cases():
            if asked.only and not case.kind.startswith(tuple(asked.only)):
                continue
            for runtime in FILES:
                rows.append(row(case, runtime, address, Path(name)))
                if len(rows) == 1:
                    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
                print("| " + " | ".join(map(str, rows[-1].values())) + " |", flush=True)
    print("\n" + "\n".join(summary(rows)))
    if asked.out is not None:
        asked.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
