"""The kernels that TensorFlow Lite Micro has, and what each of them takes: `--profile micro` refuses the rest by name.

Found by asking the interpreter of tflite-micro 8f6596d: every op it registers, with every type and rank of its input,
and its answer next to LiteRT's. It knows about forty ops more for graphs inside graphs, state and signals; no rule
emits them, and they count as unknown here.
"""

from __future__ import annotations

from dataclasses import dataclass

from toolchain.emit.contents import Contents, FileOp

ANY_RANK = 8


@dataclass(frozen=True)
class Kernel:
    """What a kernel takes.

    types  of its input; the weights of a contraction are of the same type
    rank   the most axes of any tensor that it reads or writes
    input  number of the input that `types` is about
    """

    types: frozenset[str]
    rank: int = ANY_RANK
    input: int = 0


@dataclass(frozen=True)
class Lack:
    """An op that TFLite Micro cannot run; `name` is that of the tensor that it makes."""

    code: str
    name: str
    because: str
    way_out: str


FLOAT, INT8, INT32, BOOL = "FLOAT32", "INT8", "INT32", "BOOL"
WEIGHTED = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL"}
WEIGHT = 1  # number of the input that holds it
JOINED = 10  # inputs of a CONCATENATION


def kernels(names: str, *types: str, rank: int = ANY_RANK, input: int = 0) -> dict[str, Kernel]:
    """The same row for several ops."""
    return dict.fromkeys(names.split(), Kernel(frozenset(types), rank, input))


KERNELS = {
    **kernels("CONV_2D DEPTHWISE_CONV_2D AVERAGE_POOL_2D MAX_POOL_2D FULLY_CONNECTED", FLOAT, INT8),
    **kernels("TRANSPOSE_CONV", FLOAT, INT8, input=2),
    **kernels("BATCH_MATMUL", FLOAT, INT8, rank=5),
    **kernels("RELU RELU6 LEAKY_RELU ELU HARD_SWISH LOGISTIC TANH SOFTMAX LOG_SOFTMAX ABS RSQRT", FLOAT, INT8),
    **kernels("NEG SQRT SQUARE EXP LOG SIN COS FLOOR CEIL ROUND FLOOR_DIV FLOOR_MOD", FLOAT),
    **kernels("PRELU L2_NORMALIZATION", FLOAT, INT8, rank=4),
    **kernels("ADD SUB MUL DIV MAXIMUM MINIMUM SQUARED_DIFFERENCE", FLOAT, INT8, INT32),
    **kernels("LESS LESS_EQUAL GREATER GREATER_EQUAL", FLOAT, INT8, INT32),
    **kernels("EQUAL NOT_EQUAL", FLOAT, INT8, INT32, BOOL),
    **kernels("LOGICAL_AND LOGICAL_OR LOGICAL_NOT REDUCE_ALL", BOOL),
    **kernels("MEAN SUM REDUCE_MAX REDUCE_MIN CUMSUM ARG_MAX ARG_MIN", FLOAT, INT8),
    **kernels("RESHAPE CONCATENATION SQUEEZE REVERSE_V2", FLOAT, INT8, INT32, BOOL),
    **kernels("SLICE BROADCAST_TO", FLOAT, INT8, INT32, BOOL, rank=5),
    **kernels("STRIDED_SLICE", FLOAT, INT8, INT32, BOOL, rank=4),
    **kernels("PAD PADV2", FLOAT, INT8, INT32, rank=5),
    **kernels("SPLIT_V PACK UNPACK", FLOAT, INT8, INT32),
    **kernels("SPLIT", FLOAT, INT8, INT32, input=1),
    **kernels("SELECT_V2", FLOAT, INT8, input=1),
    **kernels("TRANSPOSE GATHER_ND", FLOAT, INT8, rank=5),
    **kernels("GATHER MIRROR_PAD EXPAND_DIMS", FLOAT, INT8),
    **kernels("RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR DEPTH_TO_SPACE SPACE_TO_DEPTH", FLOAT, INT8),
    **kernels("SPACE_TO_BATCH_ND BATCH_TO_SPACE_ND", FLOAT, INT8),
    **kernels("CAST", FLOAT, INT8, INT32, BOOL),
    **kernels("QUANTIZE", FLOAT, INT8),
    **kernels("DEQUANTIZE", INT8),
}


def lacking(file: Contents) -> list[Lack]:
    """What stands between a file and TFLite Micro, in the order of its ops."""
    refused = [(op, refusal(file, op)) for op in file.ops]
    return [Lack(op.code, file.made(op).name, *found) for op, found in refused if found]


def refusal(file: Contents, op: FileOp) -> tuple[str, str] | None:
    """Why TFLite Micro cannot run an op, and the way out."""
    kernel = KERNELS.get(op.code)
    if kernel is None:
        return f"TFLite Micro has no {op.code}", "Replace the op, or export without --profile micro"
    tensors = [file.tensors[t] for t in (*op.inputs, *op.outputs) if t >= 0]
    outside = next((t.name for t in tensors if t.is_outside), None)
    if outside is not None:
        return f"TFLite Micro cannot see '{outside}' behind the flatbuffer", "Emit the file again with jettison export"
    if op.code == "CONCATENATION" and len(op.inputs) > JOINED:
        because = f"TFLite Micro's CONCATENATION takes {JOINED} inputs, not {len(op.inputs)}"
        return because, "Export with --profile micro"
    given = file.read(op, kernel.input).type
    if given not in kernel.types:
        return f"TFLite Micro has no {op.code} of {given}", "Export to tflite or tflite-int8"
    if op.code in WEIGHTED and file.read(op, WEIGHT).type != given:
        weights = file.read(op, WEIGHT).type
        return f"TFLite Micro has no {op.code} of {given} with weights of {weights}", "Export to tflite or tflite-int8"
    if op.code == "BATCH_MATMUL" and max(t.scales for t in tensors) > 1:
        return "TFLite Micro's BATCH_MATMUL takes one scale, not one for each channel", "Export to tflite"
    rank = max(len(t.shape) for t in tensors)
    if rank > kernel.rank:
        return f"TFLite Micro's {op.code} takes {kernel.rank} axes, not {rank}", "Merge axes with a Reshape before it"
    return None
