"""Static int8 in ONNX: onnxruntime's quantiser puts QuantizeLinear and DequantizeLinear around each op (QDQ).

Activations are int8 per tensor with the range of the calibration samples, weights int8 per channel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.emit.deviation import SAMPLES, deviations, range_of

Arrays = Mapping[str, NDArray[Any]]
Json = dict[str, Any]
BATCH = 16
NEAR = "_DequantizeLinear_Output"  # how onnxruntime calls a tensor after its quantisation


def onnx(folder: Path, form: str, feeds: Arrays, held_out: Arrays, threads: int) -> Json:
    """Write quantised.onnx from float.onnx; what is found of it. `form` and `threads` change nothing in it."""
    from onnx import load
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    before, after = folder / "float.onnx", folder / "quantised.onnx"
    model = load(before)

    class Reader(CalibrationDataReader):
        """Hands the calibration samples to onnxruntime."""

        parts = batches(model, feeds)

        def get_next(self) -> Any:
            """The next batch, or None."""
            return next(self.parts, None)

    quantize_static(before, after, Reader(), per_channel=True)
    near = load(after)
    near.metadata_props.extend(p for p in model.metadata_props if p.key not in {q.key for q in near.metadata_props})
    after.write_bytes(near.SerializeToString())
    produced = {o: n.op_type for n in near.graph.node for o in n.output}
    quantised = {i for n in near.graph.node if n.op_type == "DequantizeLinear" for i in n.output}
    left = [
        f"{n.op_type} '{n.output[0]}'"
        for n in near.graph.node
        if n.op_type not in ("QuantizeLinear", "DequantizeLinear")
        and not any(i in quantised for i in n.input)
        and any(i in produced for i in n.input)
    ]
    return {"float_ops": left, **compared(model, near, held_out, threads)}


def batches(model: Any, feeds: Arrays) -> Iterator[Json]:
    """The samples, a fixed batch filled up from the first ones, in the types that the inputs have."""
    from onnx import helper

    given = {i.name for i in model.graph.initializer}
    inputs = [v for v in model.graph.input if v.name not in given]
    types = {v.name: helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type) for v in inputs}
    fixed = inputs[0].type.tensor_type.shape.dim[0].dim_value
    n = len(next(iter(feeds.values())))
    for start in range(0, n, fixed or BATCH):
        rows = range(start, start + fixed if fixed else min(start + BATCH, n))
        yield {k: x.take(rows, axis=0, mode="wrap").astype(types[k]) for k, x in feeds.items()}


def compared(model: Any, near: Any, feeds: Arrays, threads: int) -> Json:
    """`deviations` of every tensor that was quantised."""
    from onnx import numpy_helper

    made = {o for n in model.graph.node for o in n.output}
    held = {t.name: numpy_helper.to_array(t) for t in near.graph.initializer}
    readers = {n.output[0].removesuffix(NEAR): n for n in near.graph.node if n.op_type == "DequantizeLinear"}
    names = [n for n in (*made, *(v.name for v in model.graph.input)) if n in readers]
    limits = {n: range_of(*(float(held[i]) for i in readers[n].input[1:3])) for n in names}
    part = {k: v[:SAMPLES] for k, v in feeds.items()}
    quantised = outputs(near, [readers[n].output[0] for n in names], part, threads)
    named = lambda found: dict(zip(names, found, strict=True))
    pairs = ((named(x), named(y)) for x, y in zip(outputs(model, names, part, threads), quantised, strict=True))
    return deviations(pairs, limits, made)


def file_outputs(path: Path, feeds: Arrays, threads: int) -> Json:
    """What onnxruntime computes from a file as it lies on disk: outputs by name."""
    from onnx import load

    model, n = load(path), len(next(iter(feeds.values())))
    names = [v.name for v in model.graph.output]
    parts = list(outputs(model, names, feeds, threads))
    return {k: np.concatenate([p[i] for p in parts])[:n] for i, k in enumerate(names)}


def outputs(model: Any, names: list[str], feeds: Arrays, threads: int) -> Iterator[list[NDArray[Any]]]:
    """Tensors of these names, batch by batch."""
    import onnxruntime
    from onnx import ModelProto, ValueInfoProto

    shown = ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(ValueInfoProto(name=n) for n in names)
    options: Any = onnxruntime.SessionOptions()  # pyright: ignore[reportAttributeAccessIssue]
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session: Any = onnxruntime.InferenceSession(shown.SerializeToString(), options)
    for part in batches(model, feeds):
        yield session.run(names, part)
