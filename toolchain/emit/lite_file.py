"""A TFLite file taken apart and put together again, as a quantiser's result has to be before anything flies on it.

ai-edge-quantizer 0.10 moves buffers behind the flatbuffer from 256 KiB on, where TFLite Micro does not look for them
and computes garbage without an error; and it leaves op versions as they were for float32, by which an old runtime takes
ops that it computes wrongly. `opened` brings every buffer back in line, `closed` aligns them and sets the versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.emit.contents import words
from toolchain.emit.flatbuffer import Buffer, Chunk, serialised
from toolchain.errors import Unsupported

Json = dict[str, Any]
INT8 = {  # version of an op from which it takes int8, as in TensorFlow's op_version.cc; 1 where it always did
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "REVERSE_V2", "TILE", "BROADCAST_TO", "CAST"), 3),
    "FULLY_CONNECTED": 4,
    **dict.fromkeys(("MAX_POOL_2D", "AVERAGE_POOL_2D", "TRANSPOSE_CONV", "BATCH_MATMUL", "SUM", "MEAN"), 2),
    **dict.fromkeys(("ADD", "SUB", "MUL", "ABS", "RSQRT", "RELU", "RELU6", "TANH", "LOGISTIC", "SOFTMAX"), 2),
    **dict.fromkeys(("MAXIMUM", "MINIMUM", "REDUCE_MAX", "REDUCE_MIN", "ARG_MAX", "ARG_MIN"), 2),
    **dict.fromkeys(("EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "SELECT"), 2),
    **dict.fromkeys(("PAD", "PADV2", "MIRROR_PAD", "CONCATENATION", "PACK", "UNPACK", "SPLIT", "TRANSPOSE"), 2),
    **dict.fromkeys(("SLICE", "STRIDED_SLICE", "GATHER", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), 2),
    **dict.fromkeys(("SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"), 2),
    **dict.fromkeys(("L2_NORMALIZATION", "LOG_SOFTMAX", "GELU", "EXP", "LOG", "SQUARED_DIFFERENCE", "DEQUANTIZE"), 2),
    **dict.fromkeys(("SPLIT_V", "TOPK_V2", "REDUCE_PROD"), 2),
}
HYBRID = {"CONV_2D": 5, "DEPTHWISE_CONV_2D": 6, "FULLY_CONNECTED": 12}  # floats against int8 weights, per channel
PER_CHANNEL_DEQUANTIZE, HALF_DEQUANTIZE, RESCALING_MUL = 5, 3, 3


def opened(data: bytes) -> Any:
    """The file as a schema.ModelT whose buffers are all in line, each a `Buffer`."""
    from ai_edge_litert import schema_py_generated as schema

    file: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    file.buffers = [Buffer(content(b, data)) for b in file.buffers]
    return file


def content(buffer: Any, data: bytes) -> NDArray[np.uint8] | None:
    """A buffer's bytes, whether they lie in its table or behind the flatbuffer; None for the empty one."""
    if buffer.offset > 1:
        return np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
    empty = buffer.data is None or len(buffer.data) == 0
    return None if empty else np.asarray(buffer.data, np.uint8)


def closed(file: Any) -> Sequence[Chunk]:
    """The file's chunks, with the versions that its ops and their types have."""
    from ai_edge_litert import schema_py_generated as schema

    wanted = [(code_of(file, o), max(file.operatorCodes[o.opcodeIndex].version, version(file, o))) for o in ops(file)]
    kinds = sorted(set(wanted))
    for operator, kind in zip(ops(file), wanted, strict=True):
        operator.opcodeIndex = kinds.index(kind)
    numbers = [(getattr(schema.BuiltinOperator, name), v) for name, v in kinds]
    file.operatorCodes = [
        schema.OperatorCodeT(deprecatedBuiltinCode=min(n, 127), builtinCode=n, version=v) for n, v in numbers
    ]
    return serialised(file)


def ops(file: Any) -> list[Any]:
    """The ops of the only subgraph, in order."""
    return file.subgraphs[0].operators


def code_of(file: Any, operator: Any) -> str:
    """An op's name in the schema."""
    from ai_edge_litert import schema_py_generated as schema

    return words(schema.BuiltinOperator)[file.operatorCodes[operator.opcodeIndex].builtinCode]


def version(file: Any, operator: Any) -> int:
    """The first version of an op that takes its integers (TensorFlow's op_version.cc); 1 for an op on floats."""
    code = code_of(file, operator)
    inputs = [file.subgraphs[0].tensors[i] for i in operator.inputs if i >= 0]
    outputs = [file.subgraphs[0].tensors[i] for i in operator.outputs]
    kinds = [type_of(t) for t in inputs]
    if code == "DEQUANTIZE" and kinds[0] == "FLOAT16":
        return HALF_DEQUANTIZE
    if code == "DEQUANTIZE" and len(scales(inputs[0])) > 1:
        return PER_CHANNEL_DEQUANTIZE
    if code in HYBRID and kinds[:2] == ["FLOAT32", "INT8"]:
        return HYBRID[code]
    if code == "MUL" and "INT8" in kinds and scales(inputs[0])[0] * scales(inputs[1])[0] >= scales(outputs[0])[0]:
        return RESCALING_MUL
    return INT8.get(code, 1) if "INT8" in kinds else 1


def type_of(tensor: Any) -> str:
    """The schema's word for a tensor's type."""
    from ai_edge_litert import schema_py_generated as schema

    return words(schema.TensorType)[tensor.type]


def scales(tensor: Any) -> NDArray[np.float32]:
    """Scales of a tensor, one or one for each channel; [] for one that is not quantised."""
    found = None if tensor.quantization is None else tensor.quantization.scale
    return np.zeros(0, np.float32) if found is None else np.asarray(found, np.float32)


def name_of(tensor: Any) -> str:
    """A tensor's name."""
    return tensor.name.decode() if isinstance(tensor.name, bytes) else str(tensor.name)


def constant(file: Any, tensor: Any) -> NDArray[Any] | None:
    """The numbers of a constant in its shape; None for a tensor that is computed."""
    held = file.buffers[tensor.buffer].bytes
    kinds = {"FLOAT32": np.float32, "INT8": np.int8, "INT32": np.int32, "FLOAT16": np.float16}
    kind = kinds.get(type_of(tensor))
    return (
        None if held is None or kind is None else held.view(kind).reshape([] if tensor.shape is None else tensor.shape)
    )


def left_in_float(file: Any) -> list[str]:
    """Ops that read or write floats, as CODE 'name of the result'; those that only convert, where they are all."""
    tensors = file.subgraphs[0].tensors
    touched = lambda o: [tensors[i] for i in (*o.inputs, *o.outputs) if i >= 0]
    left = [o for o in ops(file) if any(type_of(t) == "FLOAT32" for t in touched(o))]
    computing = [o for o in left if code_of(file, o) not in ("QUANTIZE", "DEQUANTIZE")]
    return [f"{code_of(file, o)} '{name_of(tensors[o.outputs[0]])}'" for o in computing or left]


def halved(file: Any) -> None:
    """Turn every float32 constant into float16 with an op in front that widens it again.

    Raises Unsupported for numbers that float16 cannot hold.
    """
    from ai_edge_litert import schema_py_generated as schema

    graph, widened = file.subgraphs[0], []
    file.operatorCodes.append(schema.OperatorCodeT(builtinCode=schema.BuiltinOperator.DEQUANTIZE, version=1))
    for number, tensor in enumerate(list(graph.tensors)):
        values = constant(file, tensor) if tensor.type == schema.TensorType.FLOAT32 else None
        if values is None:
            continue
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.isfinite(half).all():
            raise Unsupported("exceeds 65504, the largest float16", f"parameter '{name_of(tensor)}'", "Use tflite")
        file.buffers.append(Buffer(half))
        graph.tensors.append(
            schema.TensorT(
                name=f"{name_of(tensor)}/float16", shape=tensor.shape, type=schema.TensorType.FLOAT16,
                buffer=len(file.buffers) - 1, hasRank=True,
            )
        )  # fmt: skip
        tensor.buffer = 0
        widened.append(
            schema.OperatorT(
                opcodeIndex=len(file.operatorCodes) - 1, inputs=[len(graph.tensors) - 1], outputs=[number],
                builtinOptionsType=schema.BuiltinOptions.DequantizeOptions, builtinOptions=schema.DequantizeOptionsT(),
            )
        )  # fmt: skip
    graph.operators = [*widened, *graph.operators]
    used = {t.buffer for t in graph.tensors} | {entry.buffer for entry in file.metadata or []}
    file.buffers = [b if i in used else Buffer() for i, b in enumerate(file.buffers)]
