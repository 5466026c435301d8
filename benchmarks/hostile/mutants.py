"""Sound files, damaged at random: bytes, or what the bytes say.

What a message, a document or a table of a flatbuffer says is changed by one walk over all of its fields, whatever they
are called: sizes, names, types, attributes, offsets, versions. A name is mostly replaced by another one of the same
file, which makes cycles, values that are made twice, and inputs that fit nowhere.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

Draw = np.random.Generator
WHOLE = (
    0,
    1,
    -1,
    2,
    3,
    7,
    16,
    255,
    65_536,
    1 << 20,
    1 << 31,
    (1 << 31) - 1,
    -(1 << 31),
    1 << 40,
    (1 << 63) - 1,
    -(1 << 63),
)
REAL = (0.0, -1.0, 1e-45, 1e38, -1e38, float("nan"), float("inf"), -float("inf"), 0.5)
TEXT = (
    "",
    " ",
    "\x1b[31m",
    "a\nb",
    "../../w.bin",
    "/dev/zero",
    "/etc/passwd",
    "=cmd()|x",
    "<script>",
    "\0",
    "é" * 400,
    "%s%n",
)
OPS = (
    "Add",
    "Conv",
    "Gemm",
    "If",
    "Loop",
    "Scan",
    "Reshape",
    "Expand",
    "Tile",
    "ConstantOfShape",
    "Concat",
    "Resize",
    "Range",
    "Pad",
)
OPS += (
    "Split",
    "Gather",
    "Softmax",
    "LSTM",
    "BatchNormalization",
    "Transpose",
    "Einsum",
    "MaxPool",
    "Cast",
    "NoSuchOp",
)
ODD = (None, True, [], {}, "", -1, 0, 1e400, 1 << 70, "nan", [[]], {"": 0}, "\ud800", 0.5, ["a"], "é" * 400)
Mutate = Callable[[bytes, Draw], bytes]


# ---- bytes ---------------------------------------------------------------------------------------------------------
def flipped(raw: bytes, draw: Draw) -> bytes:
    """One to eight bits flipped."""
    out = bytearray(raw)
    for _ in range(draw.integers(1, 9) if out else 0):
        out[draw.integers(len(out))] ^= 1 << draw.integers(8)
    return bytes(out)


def cut(raw: bytes, draw: Draw) -> bytes:
    """The beginning alone."""
    return raw[: draw.integers(len(raw) + 1)]


def spliced(raw: bytes, draw: Draw) -> bytes:
    """A piece of the file, put in or written over another place."""
    start, at = (int(draw.integers(len(raw) + 1)) for _ in range(2))
    piece = raw[start : start + int(draw.integers(1, 65))]
    return raw[:at] + piece + raw[at + (len(piece) if draw.integers(2) else 0) :]


def overwritten(raw: bytes, draw: Draw) -> bytes:
    """A few bytes by noise, or a word by an extreme one."""
    size, at = int(draw.choice([1, 2, 4, 8])), int(draw.integers(len(raw) + 1))
    extreme = [b"\0" * size, b"\xff" * size, b"\xff" * (size - 1) + b"\x7f", draw.bytes(size)]
    return raw[:at] + extreme[draw.integers(4)] + raw[at + size :]


BYTES = (flipped, cut, spliced, overwritten)


def in_bytes(raw: bytes, draw: Draw) -> bytes:
    """Any of these."""
    return BYTES[draw.integers(len(BYTES))](raw, draw)


# ---- protobuf ------------------------------------------------------------------------------------------------------
def messages(message: Message) -> Iterator[Message]:
    """A message and all inside of it."""
    yield message
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in value if field.is_repeated else (value,):
                yield from messages(inner)


def in_model(raw: bytes, draw: Draw) -> bytes:
    """One to three fields of an ONNX file changed."""
    proto = onnx.ModelProto.FromString(raw)
    names = [n for m in messages(proto.graph) if isinstance(m, onnx.NodeProto) for n in (*m.input, *m.output)] or ["x"]
    for _ in range(draw.integers(1, 4)):
        inside = list(messages(proto))
        message = inside[draw.integers(len(inside))]
        fields = [f for f in message.DESCRIPTOR.fields if draw.integers(8) == 0 or is_set(message, f)]
        if fields:
            try:
                change(message, fields[draw.integers(len(fields))], names, draw)
            except (ValueError, TypeError, DecodeError):  # what protobuf itself will not hold
                continue
    return proto.SerializeToString()


def is_set(message: Message, field: FieldDescriptor) -> bool:
    """Whether a field has anything in it."""
    return bool(len(getattr(message, field.name))) if field.is_repeated else message.HasField(field.name)


def change(message: Message, field: FieldDescriptor, names: list[str], draw: Draw) -> None:
    """Another value for a field; for a repeated one, for one of its elements, or one fewer, one more, two swapped."""
    held = getattr(message, field.name)
    if not field.is_repeated:
        if draw.integers(6) == 0 or field.type == FieldDescriptor.TYPE_MESSAGE:
            message.ClearField(field.name)
        else:
            setattr(message, field.name, other(field, held, names, draw))
        return
    size, way = len(held), int(draw.integers(4))
    i = int(draw.integers(size)) if size else 0
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        if way == 0 and size:
            del held[i]
        elif way == 1 and size:
            held.add().CopyFrom(held[i])
        elif way == 2 and size > 1:
            copies = [held[int(j)] for j in draw.permutation(size)]
            fresh = [type(c).FromString(c.SerializeToString()) for c in copies]
            del held[:]
            held.extend(fresh)
        else:
            held.add()
    elif way == 0 and size:
        del held[i]
    elif way == 1 or not size:
        held.append(other(field, held[i] if size else field.default_value or 0, names, draw))
    else:
        held[i] = other(field, held[i], names, draw)


def other(field: FieldDescriptor, value: Any, names: list[str], draw: Draw) -> Any:
    """Another value of a field's type."""
    pick = lambda options: options[draw.integers(len(options))]
    if field.type == FieldDescriptor.TYPE_STRING:
        known = OPS if field.name == "op_type" else names
        return pick(known) if draw.integers(4) else pick(TEXT)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return in_bytes(value, draw) if isinstance(value, bytes) else draw.bytes(4)
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return pick(REAL)
    if field.type == FieldDescriptor.TYPE_ENUM:
        return int(draw.integers(30))
    return pick((*WHOLE, value + 1, value - 1, value * 2, -value))


# ---- documents -----------------------------------------------------------------------------------------------------
def in_json(raw: bytes, draw: Draw) -> bytes:
    """One to three values of a JSON file changed, dropped or put elsewhere."""
    root = [json.loads(raw)]
    for _ in range(draw.integers(1, 4)):
        places = list(slots(root))
        holder, key = places[draw.integers(len(places))]
        way = int(draw.integers(4))
        if way == 0 and holder is not root:
            del holder[key]
        elif way == 1:
            there, which = places[draw.integers(len(places))]
            holder[key] = json.loads(json.dumps(there[which]))
        else:
            holder[key] = ODD[draw.integers(len(ODD))]
    return json.dumps(root[0]).encode()


def slots(holder: Any) -> Iterator[tuple[Any, Any]]:
    """Every (list or table, index or key) of a document."""
    for key in list(holder if isinstance(holder, dict) else range(len(holder))):
        yield holder, key
        if isinstance(holder[key], dict | list):
            yield from slots(holder[key])


VALUES = (
    "",
    "nan",
    "inf",
    "-1",
    "1e999",
    '""',
    "[]",
    "{}",
    "true",
    "99999999999999999999",
    '"10 MBs"',
    "2020-01-01",
    "0x",
)
TOKEN = re.compile(rb"\"[^\"\n]*\"|[\w.%-]+")


def in_toml(raw: bytes, draw: Draw) -> bytes:
    """A word, a line or a table of a TOML file changed."""
    lines = raw.splitlines(keepends=True)
    i, j = (int(draw.integers(len(lines))) for _ in range(2))
    way = int(draw.integers(5))
    if way == 0:
        lines[i] = b""
    elif way == 1:
        lines.insert(i, lines[j])
    elif way == 2:
        lines[i], lines[j] = lines[j], lines[i]
    else:
        words = list(TOKEN.finditer(raw))
        word, source = (words[draw.integers(len(words))] for _ in range(2))
        fresh = source.group() if way == 3 else VALUES[draw.integers(len(VALUES))].encode()
        return raw[: word.start()] + fresh + raw[word.end() :]
    return b"".join(lines)


# ---- archives ------------------------------------------------------------------------------------------------------
HEADERS = (
    "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, 1, 8, 8)}", "{'descr': '|O', 'fortran_order': False, 'shape': (%d,)}",
    "{'descr': '<f4', 'fortran_order': True, 'shape': (-%d,)}", "{'descr': '<U%d', 'fortran_order': False, 'shape': (12,)}",
    "{'descr': '<f4', 'shape': (%d,)}", "{'descr': [('a', '<f4', (%d,))], 'fortran_order': False, 'shape': ()}", "%d", "(" * 300 + "%d",
)  # fmt: skip
MEMBERS = ("../x.npy", "/x.npy", "x", "x.npy", "y.npy", "about.npy", "classes.npy", "é.npy", "scores0.npy", "")


def in_npz(raw: bytes, draw: Draw) -> bytes:
    """A member of an .npz file renamed, dropped, doubled, damaged, or with a header that says something else."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        members = [(i.filename, archive.read(i)) for i in archive.infolist()]
    i, way = int(draw.integers(len(members))), int(draw.integers(5))
    name, content = members[i]
    changed: dict[int, Callable[[], list[tuple[str, bytes]]]] = {
        0: lambda: [(MEMBERS[draw.integers(len(MEMBERS))], content)],
        1: lambda: [],
        2: lambda: [(name, in_bytes(content, draw))],
        3: lambda: [(name, headed(content, draw))],
        4: lambda: [(name, members[draw.integers(len(members))][1])],
    }
    members[i : i + 1] = changed[way]()
    with io.BytesIO() as buffer:
        with zipfile.ZipFile(buffer, "w", int(draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as archive:
            for name, content in members:
                archive.writestr(zipfile.ZipInfo(name), content)
        return buffer.getvalue()


def headed(content: bytes, draw: Draw) -> bytes:
    """An .npy file under another header."""
    header = HEADERS[draw.integers(len(HEADERS))] % abs(WHOLE[draw.integers(len(WHOLE))])
    told = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\0" + len(told).to_bytes(2, "little") + told + content[128:]


# ---- flatbuffers ---------------------------------------------------------------------------------------------------
def in_lite(raw: bytes, draw: Draw) -> bytes:
    """One to three fields of a TFLite file changed, where the schema's own writer still packs it; else its bytes."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(raw, 0)
    for _ in range(draw.integers(1, 4)):
        places = list(attributes(model))
        holder, name = places[draw.integers(len(places))]
        value = getattr(holder, name)
        if isinstance(value, list) and value and draw.integers(2):
            del value[draw.integers(len(value))]
        elif isinstance(value, bool | int | float | np.ndarray | bytes | str):
            setattr(holder, name, odd_like(value, draw))
        elif draw.integers(3) == 0:
            setattr(holder, name, None)
    builder = flatbuffers.Builder(0)
    try:
        builder.Finish(model.Pack(builder), b"TFL3")
    except Exception:  # the writer's own checks: a field that holds what its type cannot
        return in_bytes(raw, draw)
    return bytes(builder.Output())


def attributes(holder: Any) -> Iterator[tuple[Any, str]]:
    """Every (object, attribute) of a file."""
    for name, value in vars(holder).items():
        yield holder, name
        for inner in value if isinstance(value, list) else (value,):
            if hasattr(inner, "__dict__"):
                yield from attributes(inner)


def odd_like(value: Any, draw: Draw) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return int(draw.choice([0, 1, -1, 3, 127, value + 1, value - 1, 1 << 20, (1 << 31) - 1]))
    if isinstance(value, float):
        return REAL[draw.integers(len(REAL))]
    if isinstance(value, np.ndarray):
        changed = np.array(value if draw.integers(4) else value[:-1])
        if changed.size:
            changed.flat[draw.integers(changed.size)] = draw.choice([0, 1, 3, 127, 100])
        return changed
    return in_bytes(value, draw) if isinstance(value, bytes) else TEXT[draw.integers(len(TEXT))]


KINDS: dict[str, tuple[Mutate, ...]] = {  # ending of a file -> ways to damage it, one drawn for each mutant
    ".onnx": (in_model, in_model, in_model, in_bytes),
    ".npz": (in_npz, in_npz, in_bytes),
    ".json": (in_json, in_json, in_bytes),
    ".toml": (in_toml, in_toml, in_bytes),
    ".tflite": (in_lite, in_lite, in_bytes),
}


def mutant(name: str, raw: bytes, draw: Draw) -> tuple[str, bytes]:
    """A damaged copy of a file, and how it was damaged."""
    ways = KINDS[name[name.rindex(".") :]]
    way = ways[draw.integers(len(ways))]
    return way.__name__, way(raw, draw)
