"""TensorFlow Lite Micro: what a file needs there, known without it.

The arena's head holds computed tensors and the scratch buffers of kernels, placed by GreedyMemoryPlanner from the lives
that micro_allocation_info.cc gives them. SCRATCH lists all kernels whose Prepare calls RequestScratchBufferInArena, of
those that the interpreter of tflite-micro 8f6596d registers; they are the reference kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from mmap import mmap

import onnx_ir as ir

from toolchain.emit.contents import BITS, Contents, FileOp, contents
from toolchain.emit.kernels import lacking
from toolchain.errors import Unsupported
from toolchain.ops.table import where
from toolchain.profile import ALIGNMENT, overlapping, placed

UNKNOWN = {"CUSTOM", "IF", "WHILE", "CALL_ONCE"}  # a kernel that we cannot see, and graphs inside a graph


@dataclass(frozen=True)
class Block:
    """A computed tensor or a kernel's scratch buffer in the arena.

    op           the op that the scratch belongs to, -1 for a tensor
    first, last  time of its life: 0 when the inputs are set, i + 1 while op i runs; -1 for a tensor that no op touches
    """

    name: str
    op: int
    bytes: int
    first: int
    last: int
    offset: int


@dataclass(frozen=True)
class Arena:
    """The non-persistent part of TFLite Micro's arena, "head" in what its allocator prints.

    peak     number of the op where the pile is highest, None without ops
    unknown  ops of kernels whose scratch is not known: head_bytes is then a lower bound
    """

    head_bytes: int
    blocks: tuple[Block, ...]
    peak: int | None
    unknown: tuple[str, ...]

    def alive(self, op: int) -> list[Block]:
        """What is in the arena while an op runs, the largest first."""
        return sorted((b for b in self.blocks if b.first <= op + 1 <= b.last), key=lambda b: -b.bytes)


def require_micro(data: bytes | mmap, graph: ir.Graph) -> None:
    """Raises Unsupported, with the node, for an op that TFLite Micro cannot run.

    graph  what the file was emitted from: file tensors carry the names of its values
    """
    lacks = lacking(contents(data))
    if lacks:
        first, others = lacks[0], sorted({f"'{x.name}'" for x in lacks[1:] if x.code != lacks[0].code})
        because = first.because + (f"; nor can it make {', '.join(others)}" if others else "")
        raise Unsupported(because, where_from(first.name, graph), first.way_out)


def where_from(name: str, graph: ir.Graph) -> str:
    """The node behind a file tensor, which is called like its output or stands under that name."""
    outputs = {str(v.name): n for n in graph for v in n.outputs}
    found = max((o for o in outputs if name == o or name.startswith(f"{o}/")), key=len, default=None)
    return f"tensor '{name}'" if found is None else where(outputs[found])


def arena(data: Contents | bytes | mmap) -> Arena:
    """The arena of a file; raises BadInput for bytes that are no TFLite file."""
    file = data if isinstance(data, Contents) else contents(data)
    lives: dict[int, list[int]] = {}
    for t in file.inputs.values():
        lives[t] = [0, 0]
    for time, op in enumerate(file.ops, 1):
        lives |= {t: [time, time] for t in op.outputs}
        for t in op.inputs:
            if t in lives:
                lives[t][1] = time
    for t in file.outputs.values():
        lives.setdefault(t, [0, 0])[1] = len(file.ops)
    rows: list[tuple[str, int, int, list[int]]] = []
    for i, t in enumerate(file.tensors):
        if not t.stored_bytes and not t.is_variable:
            rows.append((t.name, -1, t.bytes, lives.get(i, [-1, -1])))
    for i, op in enumerate(file.ops):
        name = file.made(op).name if op.outputs else op.code
        rows += [(f"scratch of {op.code} '{name}'", i, size, [i + 1, i + 1]) for size in scratch(file, op)]
    sizes = [-(-size // ALIGNMENT) * ALIGNMENT for _, _, size, _ in rows]
    offsets = placed(sizes, overlapping([life for *_, life in rows]))
    blocks = tuple(
        Block(name, op, size, life[0], life[1], offset)
        for (name, op, _, life), size, offset in zip(rows, sizes, offsets, strict=True)
        if size
    )
    head = max((b.offset + b.bytes for b in blocks), default=0)
    return Arena(head, blocks, peak(blocks, head, len(file.ops)), unknown(file))


def peak(blocks: tuple[Block, ...], head: int, ops: int) -> int | None:
    """The op during which the pile reaches its top; of several the one that has the most in it."""
    top = [b for b in blocks if b.offset + b.bytes == head]
    times = {t for b in top for t in range(max(b.first, 1), min(b.last, ops) + 1)} or set(range(1, ops + 1))
    held = {t: sum(b.bytes for b in blocks if b.first <= t <= b.last) for t in sorted(times)}
    return max(held, key=lambda t: held[t]) - 1 if held else None


def unknown(file: Contents) -> tuple[str, ...]:
    """Ops whose kernels may ask for more than we know."""
    return tuple(f"{op.code} '{file.made(op).name}'" for op in file.ops if op.code in UNKNOWN)


# ---- scratch buffers -----------------------------------------------------------------------------------------------
def scratch(file: Contents, op: FileOp) -> list[int]:
    """Bytes that a kernel asks for beside its tensors."""
    return SCRATCH[op.code](file, op) if op.code in SCRATCH else []


def reduced_scratch(file: Contents, op: FileOp) -> list[int]:
    """reduce_common.cc: an index into the input and the axes."""
    return [4 * len(file.read(op).shape), 4 * file.read(op, 1).elements]


def summed_scratch(file: Contents, op: FileOp) -> list[int]:
    """reduce_common.cc: quantised numbers are summed in 32 bits."""
    is_summed = file.read(op).type in ("INT8", "INT16")
    return [4 * file.made(op).elements] * is_summed + reduced_scratch(file, op)


def transposed_scratch(file: Contents, op: FileOp) -> list[int]:
    """transpose_conv.cc: sums of 32 bits for int8, of 64 for int16, whose biases of 16 bits are widened too."""
    width = {"INT8": 4, "INT16": 8}.get(file.read(op, 2).type, 0)
    has_bias = len(op.inputs) > 3 and op.inputs[3] >= 0
    biases = [8 * file.read(op, 3).elements] if has_bias and file.read(op, 3).type == "INT16" else []
    return [width * file.made(op).elements, *biases]


def lstm_scratch(file: Contents, op: FileOp) -> list[int]:
    """unidirectional_sequence_lstm.cc: four gates in the type of the cell's state."""
    x, state, cell = file.read(op), file.read(op, 18), file.read(op, 19)
    batch = x.shape[1] if op.options is not None and op.options.TimeMajor() else x.shape[0]
    return [batch * state.shape[1] * BITS[cell.type] // 8] * 4


def svdf_scratch(file: Contents, op: FileOp) -> list[int]:
    """svdf_common.cc: the filters' outputs, and for integers the units' as well."""
    x, filters, units = file.read(op), file.read(op, 1).shape[0], file.made(op).shape[-1]
    return [4 * x.shape[0] * filters] + [4 * x.shape[0] * units] * (x.type == "INT8")


def unpacked_scratch(file: Contents, op: FileOp) -> list[int]:
    """conv_common.cc, depthwise_conv_common.cc, fully_connected.cc: weights of 4 bits are unpacked."""
    return [file.read(op, 1).elements] * (file.read(op, 1).type == "INT4")


SCRATCH: dict[str, Callable[[Contents, FileOp], list[int]]] = {
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"), unpacked_scratch),
    **dict.fromkeys(("MEAN", "SUM"), summed_scratch),
    **dict.fromkeys(("REDUCE_MAX", "REDUCE_MIN", "REDUCE_ALL"), reduced_scratch),
    "TRANSPOSE_CONV": transposed_scratch,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": lstm_scratch,
    "SVDF": svdf_scratch,
    "ADD_N": lambda file, op: [8 * len(op.inputs)],  # pointers to the terms
    "MIRROR_PAD": lambda file, op: [4 * len(file.made(op).shape)] * 2,  # strides of both sides
}
