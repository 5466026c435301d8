"""The one place that reads a model file: nothing else sees it before it was found sound."""

from __future__ import annotations

import hashlib
import heapq
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from toolchain.errors import BadInput

LOOKS = (  # first bytes of what people hand in instead
    (b"PK\x03\x04", "a zip archive (perhaps a .pt file: pickles run code; export to ONNX first)"),
    (b"\x80\x02", "a Python pickle (pickles run code; export to ONNX first)"),
    (b"\x89HDF", "an HDF5 file"),
    (b"<", "text"),
    (b"{", "JSON text"),
)


def read_bytes(path: Path, kind: str) -> bytes:
    """The bytes of an ordinary file; raises BadInput with the reason in the user's words."""
    try:
        if path.is_dir():
            raise BadInput(f"is a folder, {kind} is needed", str(path))
        if path.exists() and not path.is_file():
            raise BadInput("is not an ordinary file", str(path))
        return path.read_bytes()
    except FileNotFoundError as error:
        raise BadInput("no such file", str(path)) from error
    except OSError as error:
        raise BadInput(str(error.strerror).lower(), str(path)) from error


def read_proto(path: Path) -> tuple[onnx.ModelProto, str]:
    """Parse an ONNX file; returns it with the SHA-256 of its bytes."""
    raw = read_bytes(path, "an ONNX file")
    if not raw:
        raise BadInput("not an ONNX model: the file is empty", str(path))
    if raw[4:8] == b"TFL3":
        raise BadInput("not an ONNX model: it looks like a TFLite file", str(path))
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(raw)
    except DecodeError as error:
        looks = next(
            (f"it looks like {what}" for head, what in LOOKS if raw.startswith(head)), "it is damaged or truncated"
        )
        raise BadInput(f"not an ONNX model: {looks}", str(path)) from error
    if not proto.graph.node and not proto.graph.output:
        raise BadInput("not an ONNX model: it has no graph", str(path))
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in proto.graph.initializer):
        load_external(proto, path)
    return proto, hashlib.sha256(raw).hexdigest()


def load_external(proto: onnx.ModelProto, path: Path) -> None:
    """Fill tensors that lie beside the model; a path that leaves the model's folder is refused."""
    home = path.resolve().parent
    for tensor in proto.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        where = {e.key: e.value for e in tensor.external_data}
        file = home / where.get("location", "")
        name = f"{path}: tensor '{tensor.name}'"
        inside = file.parent.resolve() == home or home in file.parent.resolve().parents
        if not where.get("location") or Path(where["location"]).is_absolute() or not inside or file.is_symlink():
            raise BadInput("its data path leaves the model's folder; refused", name)
        if file.exists() and (not file.is_file() or file.stat().st_nlink > 1):
            raise BadInput("its data file is no ordinary file of the model's folder; refused", name)
        try:
            offset, length = int(where.get("offset", 0)), int(where.get("length", -1))
        except ValueError as error:
            raise BadInput("its data offset or length is no number", name) from error
        if not file.exists():
            raise BadInput(f"its data file {where['location']} is missing", name)
        size = file.stat().st_size
        length = size - offset if length < 0 else length
        if offset < 0 or offset + length > size:
            raise BadInput(f"offset {offset} + {length} bytes is past the end of {file.name} ({size} bytes)", name)
        with file.open("rb") as data:
            data.seek(offset)
            tensor.raw_data = data.read(length)
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def check_graph(proto: onnx.ModelProto, path: Path) -> None:
    """Tensors hold what they say, values are made once and before they are used; unsorted nodes are sorted."""
    graph = proto.graph
    if not graph.output:
        raise BadInput("the graph has no output", str(path))
    for tensor in graph.initializer:
        check_tensor(tensor, path)
    given = {i.name for i in graph.input} | {t.name for t in graph.initializer} | {""}
    given |= {t.values.name for t in graph.sparse_initializer}
    made: set[str] = set()
    for name in (name for node in graph.node for name in node.output if name):
        if name in made or name in given:
            raise BadInput(f"value '{name}' is made twice", str(path))
        made.add(name)
    order = sorted_nodes(graph, given, path)
    if any(a is not b for a, b in zip(order, graph.node, strict=True)):
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in order]
        del graph.node[:]
        graph.node.extend(copies)
    for output in graph.output:
        if output.name not in made and output.name not in given:
            raise BadInput(f"output '{output.name}' is never made", str(path))


def sorted_nodes(graph: onnx.GraphProto, given: set[str], path: Path) -> list[onnx.NodeProto]:
    """The nodes in an order in which every input is there (Kahn 1962); the file's own order where that is one."""
    ready = set(given)
    missing: dict[int, int] = {}
    readers: dict[str, list[int]] = {}
    for i, node in enumerate(graph.node):
        missing[i] = len(absent := set(node.input) - given)
        for name in absent:
            readers.setdefault(name, []).append(i)
    queue = [i for i, count in missing.items() if not count]
    heapq.heapify(queue)
    order: list[onnx.NodeProto] = []
    while queue:
        node = graph.node[heapq.heappop(queue)]
        order.append(node)
        for name in node.output:
            ready.add(name)
            for i in readers.pop(name, ()):
                missing[i] -= 1
                if not missing[i]:
                    heapq.heappush(queue, i)
    if len(order) < len(graph.node):
        raise BadInput(stuck([graph.node[i] for i, count in missing.items() if count], ready), str(path))
    return order


def stuck(left: list[onnx.NodeProto], produced: set[str]) -> str:
    """Why no further node can run: an input that nobody makes, or a cycle."""
    makers = {o: n for n in left for o in n.output}
    for node in left:
        for name in node.input:
            if name not in produced and name not in makers:
                return f"{node.op_type} '{node.name}' reads '{name}', which nothing makes"
    node = left[0]
    seen: list[onnx.NodeProto] = []
    while all(node is not s for s in seen):
        seen.append(node)
        node = next(makers[i] for i in node.input if i not in produced)
    names = [s.name or s.output[0] for s in reversed(seen[next(i for i, s in enumerate(seen) if s is node) :])]
    return "the graph has a cycle through " + " → ".join(f"'{n}'" for n in names)


def check_tensor(tensor: onnx.TensorProto, path: Path) -> None:
    """Declared and stored sizes agree."""
    where = f"{path}: tensor '{tensor.name}'"
    if any(d < 0 for d in tensor.dims):
        raise BadInput(f"has a negative dimension {list(tensor.dims)}", where)
    if tensor.data_type not in onnx.TensorProto.DataType.values() or tensor.data_type == onnx.TensorProto.UNDEFINED:
        raise BadInput(f"has the unknown data type {tensor.data_type}", where)
    if tensor.data_type == onnx.TensorProto.STRING or not tensor.HasField("raw_data"):
        return
    count = 1
    for d in tensor.dims:
        count *= d
    bits = ir.DataType(tensor.data_type).bitwidth
    if -(-count * bits // 8) != len(tensor.raw_data):
        raise BadInput(f"declares {count * bits // 8:,} bytes but stores {len(tensor.raw_data):,}", where)


def check_parameters(graph: ir.Graph, path: Path) -> None:
    """No NaN and no infinity in a float parameter."""
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16):
            continue
        try:
            array = tensor.numpy()
        except (ValueError, TypeError) as error:
            raise BadInput("its data does not fill its shape", f"{path}: tensor '{value.name}'") from error
        if np.isfinite(array.sum(dtype=np.float64)):
            continue  # one pass without a temporary: a NaN or an infinity always survives a sum
        bad = ~np.isfinite(array)
        if not bad.any():
            continue
        kind = "NaN" if np.isnan(array).any() else "infinity"
        first = [int(i) for i in np.argwhere(bad)[0]]
        raise BadInput(f"has {int(bad.sum())} {kind} (first at {first})", f"{path}: tensor '{value.name}'")
