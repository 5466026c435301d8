"""One network cut by onnxsim 0.8.1 to budgets of multiply-accumulates: the least sparsity that meets each.

    PYTHON_WITH_ONNXSIM benchmarks/rivals/onnxsim_budget.py NET.onnx CALIBRATION.npz OUT --limits 0.7 0.5 0.3 0.1

It runs in an environment with onnxsim alone. OUT gets simple.onnx (what it prunes), and for each score and limit
l2-70.onnx and l2-70-refit.onnx (its own ridge refit on the calibration images); what it cannot reach is not written.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxsim
from onnx import shape_inference


def macs(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of convolutions and products for one sample."""
    inferred = shape_inference.infer_shapes(model).graph
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*inferred.value_info, *inferred.output)
    }
    weights = {t.name: list(t.dims) for t in inferred.initializer}
    total = 0
    for node in inferred.node:
        if node.op_type == "Conv":
            total += int(np.prod(weights[node.input[1]]) * np.prod(shapes[node.output[0]][2:]))
        elif node.op_type in ("Gemm", "MatMul"):
            total += int(np.prod(weights[node.input[1]]))
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--limits", type=float, nargs="+", required=True)
    asked = parser.parse_args()
    with np.load(asked.calibration) as file:
        data: list[dict[str, Any]] = [
            {"image": part} for part in np.array_split(file["x"], max(1, len(file["x"]) // 32))
        ]
    simple, _ = onnxsim.simplify(onnx.load(asked.net))
    onnx.save(simple, asked.out / "simple.onnx")
    dense = macs(simple)
    for score in ("l2", "wanda"):
        sparsities = iter(np.arange(0.04, 0.99, 0.04))
        found, share = simple, 1.0
        for limit in sorted(asked.limits, reverse=True):
            while share > limit and (sparsity := next(sparsities, None)) is not None:
                copy = onnx.ModelProto.FromString(simple.SerializeToString())
                if score == "l2":
                    found = onnxsim.apply_structured_pruning(copy, sparsity=float(sparsity))
                else:
                    found = onnxsim.apply_structured_wanda_pruning(copy, data, sparsity=float(sparsity))
                share = macs(found) / dense
            if share <= limit:
                name = f"{score}-{round(100 * limit)}"
                onnx.save(found, asked.out / f"{name}.onnx")
                refitted = onnxsim.apply_pruning_finetune(
                    simple, onnx.ModelProto.FromString(found.SerializeToString()), data
                )
                onnx.save(refitted, asked.out / f"{name}-refit.onnx")


if __name__ == "__main__":
    main()
