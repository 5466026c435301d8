"""TensorFlow Lite, float32: the writer's ops and tensors packed into a flatbuffer.

One subgraph with a static batch, every value channels last where its ops want that, weights once, buffers aligned to 16
bytes as the runtimes on microcontrollers need them. The same model gives the same bytes.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

import toolchain
from toolchain.emit.flatbuffer import Buffer, Chunk, serialised
from toolchain.emit.layout import Layout, channels_last, plain
from toolchain.emit.micro import require_micro
from toolchain.emit.prepare import prepared
from toolchain.emit.views import ACTIVATION, Operation, Tensor, View
from toolchain.emit.writer import Writer
from toolchain.errors import Unsupported
from toolchain.files import write_atomic
from toolchain.model import Model
from toolchain.ops.table import dims

LARGEST = 2**31 - 2**20  # a flatbuffer's offsets are 31 bits
LAYOUT = "jettison.layout"  # name of the metadata entry that says how inputs and outputs are permuted
OPTIONS = {  # name of an op's options where it is not the op's own in the other spelling
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "MINIMUM": "MaximumMinimumOptions",
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"), "ReducerOptions"),
    "BATCH_MATMUL": "BatchMatMulOptions",
    "PADV2": "PadV2Options",
    "CONV_3D": "Conv3DOptions",
    "CONV_3D_TRANSPOSE": "Conv3DOptions",
}
RANKED = {"PAD": 4, "PADV2": 4, "SLICE": 5, "STRIDED_SLICE": 4}  # versions from five axes on
TYPED = {  # versions from an input's type on
    **{("ABS", np.int32): 5, ("SIGN", np.int32): 2},
    **dict.fromkeys((("GATHER", np.bool_), ("TRANSPOSE", np.bool_), ("STRIDED_SLICE", np.bool_)), 3),
}
IN_PLACE = {"ADD", "SUB", "MUL", "DIV", "SOFTMAX"}  # ops whose result LiteRT may put where their input was
ENUMS = {"padding": "Padding", "mode": "MirrorPadMode", ACTIVATION: "ActivationFunctionType"}


@dataclass(frozen=True)
class LiteModel:
    """A TFLite file and how to feed it.

    chunks           the file's bytes, one after another
    inputs, outputs  name -> ONNX axes in file order: file array = ONNX array.transpose(axes)
    """

    chunks: Sequence[Chunk]
    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...]]

    @property
    def data(self) -> bytes:
        """The file in one piece."""
        return b"".join(self.chunks)

    def write(self, path: Path) -> None:
        """Write the file atomically, weight by weight."""
        write_atomic(path, lambda file: file.writelines(self.chunks))


def to_tflite(model: Model, metadata: dict[str, str] | None = None, batch: int = 1, profile: str = "lite") -> LiteModel:
    """The float32 TFLite file of a model, with ONNX's names for inputs and outputs.

    batch    size that a free batch gets
    profile  micro: with no other kernels than TFLite Micro has

    Raises Unsupported for an op or an attribute that TFLite cannot compute exactly, and above 2 GiB.
    """
    writer = written(prepared(model, batch), batch, profile == "micro")
    inputs = {str(v.name): axes(view.layout) for v, view in writer.inputs.items()}
    outputs = {str(v.name): axes(writer.views[v].layout) for v in writer.graph.outputs}
    told = {"inputs": inputs, "outputs": outputs}
    samples = {str(v.name): batch_axis(v) for v in writer.graph.outputs if batch_axis(v)}
    entries = {LAYOUT: json.dumps(told | ({"batch": samples} if samples else {})), **(metadata or {})}
    lite = LiteModel(packed(writer, entries), inputs, outputs)
    if profile == "micro":
        require_micro(lite.data, writer.graph)
    return lite


def axes(layout: Layout) -> tuple[int, ...]:
    """The permutation of a layout that has no axes of its own."""
    return tuple(a for a in layout.axes if a is not None)


def batch_axis(value: ir.Value) -> int:
    """The axis of samples: the first of a value of unknown shape, but not of a recurrent network's hidden states."""
    return 0 if value.shape is None else next((a for a, d in enumerate(dims(value)) if d < 0), 0)


def written(graph: ir.Graph, batch: int, is_micro: bool = False) -> Writer:
    """The graph as file ops; an input is channels last where that moves fewer bytes, then where it takes fewer ops."""
    layouts: dict[str, Layout] = {}
    best = finished(graph, batch, layouts, is_micro)
    for value in graph.inputs:
        if len(value.shape or ()) > 2:
            tried = layouts | {str(value.name): channels_last(len(value.shape or ()))}
            writer = finished(graph, batch, tried, is_micro)
            if cost(writer) < cost(best):
                best, layouts = writer, tried
    return best


def finished(graph: ir.Graph, batch: int, layouts: dict[str, Layout], is_micro: bool) -> Writer:
    """All ops that the outputs need, each output in a tensor of its own."""
    writer = Writer(graph, batch, layouts, is_micro)
    writer.write()
    taken = {view.tensor for view in writer.inputs.values()}
    for value in graph.outputs:
        writer.stem = str(value.name)
        view = writer.input(value)
        view = writer.relaid(view, at_the_end(view))
        if view.tensor in taken or view.tensor.array is not None:
            view = writer.op("RESHAPE", view, np.array(view.tensor.shape, np.int32), newShape=list(view.tensor.shape))
        taken.add(view.tensor)
        writer.views[value] = view
    ends = {writer.views[v].tensor for v in graph.outputs}
    needed, live = set(ends), list[Operation]()
    for operation in reversed(writer.operations):
        if operation.output in needed:
            needed.update(operation.inputs)
            live.append(operation)
    writer.operations = copied(live[::-1], ends)
    return writer


def at_the_end(view: View) -> Layout:
    """How an output is handed out: channels last or as in ONNX, and maps of more axes as they lie."""
    own, rank = axes(view.layout), len(view.dims)
    is_kept = own == channels_last(rank).axes or (rank > 4 and own[0] == 0)
    return Layout(own) if is_kept else plain(rank)


def copied(operations: list[Operation], ends: set[Tensor]) -> list[Operation]:
    """The ops, with copies where LiteRT 2.3 computes wrongly without.

    In front of a RESHAPE: without XNNPACK it lets an op write into a reshaped tensor although the source, itself
    computed in place, is still to be read. Of a value that BATCH_MATMUL multiplies with itself: XNNPACK reads one of
    both sides wrongly if a TRANSPOSE made it.
    """
    readers: defaultdict[Tensor, list[Operation]] = defaultdict(list)
    for operation in operations:
        for tensor in operation.inputs:
            readers[tensor].append(operation)
    result: list[Operation] = []
    for o in operations:
        x = o.inputs[0]
        is_read_again = len(readers[x]) > 1 or x in ends
        is_risky = o.code == "RESHAPE" and x.producer is not None and x.producer.code in IN_PLACE and is_read_again
        if is_risky and any(r.code in IN_PLACE for r in readers[o.output]):
            result.append(copy_of(x, f"{o.output.stem}/copy"))
            o = Operation(o.code, [result[-1].output, *o.inputs[1:]], o.output, o.options)
        is_turned = x.producer is not None and x.producer.code == "TRANSPOSE"
        if o.code == "BATCH_MATMUL" and x is o.inputs[1] and is_turned:
            result.append(copy_of(x, f"{o.output.stem}/copy"))
            o = Operation(o.code, [x, result[-1].output], o.output, o.options)
        result.append(o)
    return result


def copy_of(x: Tensor, stem: str) -> Operation:
    """All of a tensor, elsewhere: a RESHAPE might share its memory."""
    rank = len(x.shape)
    window = [Tensor((rank,), np.int32, f"{stem}/window", np.array(v)) for v in ([0] * rank, x.shape)]
    return Operation("SLICE", [x, *window], Tensor(x.shape, x.dtype, stem), {})


def cost(writer: Writer) -> tuple[int, int]:
    """Elements that are only moved, and the number of ops."""
    moved = [math.prod(o.output.shape) for o in writer.operations if o.code in ("TRANSPOSE", "GATHER")]
    return sum(moved), len(writer.operations)


def version(operation: Operation) -> int:
    """The first version of an op of a float file that can do this (TensorFlow's op_version.cc)."""
    x, options = operation.inputs[0], operation.options
    rank, code = max(len(t.shape) for t in operation.inputs), operation.code
    broadcasts = len(operation.inputs) > 1 and x.shape != operation.inputs[1].shape
    if code == "CONV_2D" and x.shape[3] != operation.inputs[1].shape[3]:
        return 6  # groups
    if code == "DEPTHWISE_CONV_2D" and (options["dilationHFactor"], options["dilationWFactor"]) != (1, 1):
        return 2
    if code == "FULLY_CONNECTED" and options["keepNumDims"]:
        return 5
    if code == "TRANSPOSE_CONV":
        return 3  # a bias
    if code == "BROADCAST_TO":
        return 2
    if code.startswith("RESIZE") and (options.get("halfPixelCenters") or (options["alignCorners"] and "NEAR" in code)):
        return 3
    if code == "TRANSPOSE" and rank > 4:
        return {5: 4, 6: 6}.get(rank, 8)
    if code in ("MAXIMUM", "MINIMUM", "SUB", "DIV") and broadcasts and rank > 4:
        return 2 if code == "DIV" else 3
    if rank > 4 and code in RANKED:
        return RANKED[code]
    return TYPED.get((code, x.dtype), 1)


# ---- flatbuffer ----------------------------------------------------------------------------------------------------
def packed(writer: Writer, metadata: dict[str, str]) -> Sequence[Chunk]:
    """The file's chunks."""
    from ai_edge_litert import schema_py_generated as schema

    ends = [v.tensor for v in writer.inputs.values()], [writer.views[v].tensor for v in writer.graph.outputs]
    tensors = list(dict.fromkeys([*ends[0], *(t for o in writer.operations for t in (*o.inputs, o.output))]))
    number = {t: i for i, t in enumerate(tensors)}
    names = names_of(writer, tensors)
    buffers, where_held = held(tensors)
    if sum(b.bytes.size for b in buffers if b.bytes is not None) > LARGEST:
        raise Unsupported("the weights exceed 2 GiB, which a TFLite file cannot hold", way_out="Export to onnx")
    codes = sorted({(o.code, version(o)) for o in writer.operations})
    kinds = schema.TensorType
    types = {np.float32: kinds.FLOAT32, np.int32: kinds.INT32, np.bool_: kinds.BOOL}
    types |= {np.int8: kinds.INT8, np.uint8: kinds.UINT8}
    graph = schema.SubGraphT(
        name="main",
        tensors=[
            schema.TensorT(name=names[t], shape=list(t.shape), type=types[t.dtype], buffer=b, hasRank=True)
            for t, b in zip(tensors, where_held, strict=True)
        ],
        inputs=[number[t] for t in ends[0]],
        outputs=[number[t] for t in ends[1]],
        operators=[operator(schema, o, codes.index((o.code, version(o))), number) for o in writer.operations],
    )
    maps = [[schema.TensorMapT(name=names[t], tensorIndex=number[t]) for t in side] for side in ends]
    entries = [schema.MetadataT(name=k, buffer=len(buffers) + i) for i, k in enumerate(metadata)]
    buffers += [Buffer(np.frombuffer(text.encode(), np.uint8)) for text in metadata.values()]
    file = schema.ModelT(
        version=3,
        operatorCodes=[operator_code(schema, code, v) for code, v in codes],
        subgraphs=[graph],
        description=f"jettison {toolchain.__version__}",
        buffers=buffers,
        metadata=entries,
        signatureDefs=[schema.SignatureDefT(inputs=maps[0], outputs=maps[1], signatureKey="serving_default")],
    )
    return serialised(file)


def names_of(writer: Writer, tensors: Iterable[Tensor]) -> dict[Tensor, str]:
    """Unique names; those of inputs and outputs are ONNX's."""
    names = {writer.inputs[v].tensor: str(v.name) for v in writer.graph.inputs}
    names |= {writer.views[v].tensor: str(v.name) for v in writer.graph.outputs}
    taken = set(names.values())
    for tensor in tensors:
        if tensor not in names:
            stem = str(tensor.values[-1].name) if tensor.values else tensor.stem
            fresh = (f"{stem}.{i}" if i else stem for i in itertools.count())
            names[tensor] = next(n for n in fresh if n not in taken)
            taken.add(names[tensor])
    return names


def held(tensors: Iterable[Tensor]) -> tuple[list[Buffer], list[int]]:
    """Buffers, shared parameters once, and the buffer of each tensor; 0 is the empty one.

    Equal floats of different names stay apart: a quantiser gives each its own scale.
    """
    buffers, known, numbers = [Buffer()], dict[tuple[str, bytes], int](), list[int]()
    for tensor in tensors:
        if tensor.array is None:
            numbers.append(0)
            continue
        tensor.array = array = np.ascontiguousarray(tensor.array, tensor.dtype)
        key = ("" if tensor.dtype is np.int32 else tensor.stem, sha256(array.data).digest())
        if key not in known:
            known[key] = len(buffers)
            buffers.append(Buffer(array))
        numbers.append(known[key])
    return buffers, numbers


def operator_code(schema: Any, code: str, version: int) -> Any:
    """A builtin op; old readers look at the field of 7 bits."""
    number = getattr(schema.BuiltinOperator, code)
    return schema.OperatorCodeT(deprecatedBuiltinCode=min(number, 127), builtinCode=number, version=version)


def operator(schema: Any, operation: Operation, code: int, number: dict[Tensor, int]) -> Any:
    """An op with its options."""
    written = schema.OperatorT(
        opcodeIndex=code, inputs=[number[t] for t in operation.inputs], outputs=[number[operation.output]]
    )
    kind = OPTIONS.get(operation.code, operation.code.title().replace("_", "") + "Options")
    if hasattr(schema.BuiltinOptions, kind):
        written.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        written.builtinOptions = getattr(schema, f"{kind}T")()
        for name, value in operation.options.items():
            value = getattr(getattr(schema, ENUMS[name]), value) if name in ENUMS else value
            setattr(written.builtinOptions, name, value)
    return written
