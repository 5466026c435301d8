"""What stands in a TFLite file: its tensors, and its ops in the order in which they run. Weights are not read."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import cache
from mmap import mmap
from typing import Any

from toolchain.errors import BadInput

BITS = {
    **dict.fromkeys(("INT8", "UINT8", "BOOL"), 8),
    **dict.fromkeys(("FLOAT16", "BFLOAT16", "INT16", "UINT16"), 16),
    **dict.fromkeys(("FLOAT32", "INT32", "UINT32", "RESOURCE", "VARIANT"), 32),
    **dict.fromkeys(("FLOAT64", "INT64", "UINT64", "COMPLEX64"), 64),
    **{"INT4": 4, "COMPLEX128": 128},
}


@dataclass(frozen=True)
class FileTensor:
    """One tensor.

    type          the schema's word, like FLOAT32
    stored_bytes  of its constant in the flatbuffer; 0 for a computed tensor
    is_outside    its constant lies behind the flatbuffer, where only newer runtimes look
    is_variable   it keeps its value from one inference to the next
    scale, zero   quantisation of the whole tensor; scale 0 for none
    scales        how many scales it has: one, or one for each channel
    """

    name: str
    shape: tuple[int, ...]
    type: str
    stored_bytes: int = 0
    is_outside: bool = False
    is_variable: bool = False
    scale: float = 0.0
    zero: int = 0
    scales: int = 0

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        return -(-self.elements * BITS.get(self.type, 0) // 8)


@dataclass(frozen=True)
class FileOp:
    """One op: the numbers of the tensors that it reads (-1: left out) and writes, and its options."""

    code: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any


@dataclass(frozen=True)
class Contents:
    """The main subgraph; subgraphs counts all of them.

    inputs, outputs  name in the signature (else the tensor's own) -> number of the tensor, in the file's order
    """

    tensors: tuple[FileTensor, ...]
    ops: tuple[FileOp, ...]
    inputs: dict[str, int]
    outputs: dict[str, int]
    subgraphs: int = 1

    def read(self, op: FileOp, i: int = 0) -> FileTensor:
        """Input i of an op."""
        return self.tensors[op.inputs[i]]

    def made(self, op: FileOp) -> FileTensor:
        """The first output of an op."""
        return self.tensors[op.outputs[0]]


def contents(data: bytes | mmap, name: str = "") -> Contents:
    """The parsed file; raises BadInput for what is no TFLite file."""
    from ai_edge_litert import schema_py_generated as schema

    if data[4:8] != b"TFL3":
        raise BadInput("is no TFLite file", name)
    try:
        return parsed(schema, data)
    except (struct.error, IndexError, TypeError, AttributeError, UnicodeDecodeError, ValueError, KeyError) as error:
        raise BadInput("is a damaged TFLite file", name, "Emit it again") from error


def parsed(schema: Any, data: bytes | mmap) -> Contents:
    """The main subgraph of a file that is sound."""
    file = schema.Model.GetRootAs(data)
    graph = file.Subgraphs(0)
    tensors = tuple(tensor(schema, file, graph.Tensors(i)) for i in range(graph.TensorsLength()))
    ops = tuple(operation(schema, file, graph.Operators(i)) for i in range(graph.OperatorsLength()))
    signed = {}
    for i in range(file.SignatureDefsLength()):
        signature = file.SignatureDefs(i)
        maps = [*map(signature.Inputs, range(signature.InputsLength()))]
        maps += [*map(signature.Outputs, range(signature.OutputsLength()))]
        signed |= {m.TensorIndex(): m.Name().decode() for m in maps}
    ends = numbers(graph, "Inputs"), numbers(graph, "Outputs")
    inputs, outputs = ({signed.get(t, tensors[t].name): t for t in side} for side in ends)
    read = [t for op in ops for t in op.inputs if t != -1]
    made = [t for side in (*ends, *(op.outputs for op in ops)) for t in side]
    if any(not 0 <= t < len(tensors) for t in (*read, *made)) or not all(op.outputs for op in ops):
        raise IndexError("a tensor that is none, or an op that makes nothing")
    if any(d < 0 for t in tensors for d in t.shape):
        raise ValueError("a negative dimension")
    return Contents(tensors, ops, inputs, outputs, file.SubgraphsLength())


def numbers(table: Any, field: str) -> tuple[int, ...]:
    """A vector of whole numbers."""
    return tuple(int(getattr(table, field)(i)) for i in range(getattr(table, f"{field}Length")()))


@cache
def words(kind: Any) -> dict[int, str]:
    """The names of an enumeration."""
    return {v: k for k, v in vars(kind).items() if isinstance(v, int)}


def tensor(schema: Any, file: Any, written: Any) -> FileTensor:
    """One tensor."""
    buffer, told = file.Buffers(written.Buffer()), written.Quantization()
    scale, zero = 0.0, 0
    if told is not None and told.ScaleLength() == 1:
        scale, zero = float(told.Scale(0)), int(told.ZeroPoint(0)) if told.ZeroPointLength() else 0
    return FileTensor(
        (written.Name() or b"").decode(),
        numbers(written, "Shape"),
        words(schema.TensorType)[written.Type()],
        buffer.DataLength(),
        buffer.Offset() > 1,
        bool(written.IsVariable()),
        scale,
        zero,
        0 if told is None else told.ScaleLength(),
    )


def operation(schema: Any, file: Any, written: Any) -> FileOp:
    """One op, its options as the object of the schema, None where it has none."""
    code = file.OperatorCodes(written.OpcodeIndex())
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    kind, table = words(schema.BuiltinOptions)[written.BuiltinOptionsType()], written.BuiltinOptions()
    options = None
    if table is not None:
        options = getattr(schema, kind)()
        options.Init(table.Bytes, table.Pos)
    name = words(schema.BuiltinOperator)[number]
    return FileOp(name, numbers(written, "Inputs"), numbers(written, "Outputs"), options)
