"""The one place that reads a model file: nothing else sees it before it was found sound."""

from __future__ import annotations

import hashlib
import heapq
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from toolchain.errors import BadInput, Unsupported
from toolchain.files import read_bytes

STANDARD = ("", "ai.onnx")  # names of onnx's own domain
EQUATION = re.compile(rb"[A-Za-z.,\s]*(->[A-Za-z.\s]*)?")  # of an Einsum; onnx's inference never ends over others
DEEPEST = 16  # branches within branches within branches …
LOOKS = (  # first bytes of what people hand in instead
    (b"PK\x03\x04", "a zip archive (perhaps a .pt file: pickles run code; export to ONNX first)"),
    (b"\x80\x02", "a Python pickle (pickles run code; export to ONNX first)"),
    (b"\x89HDF", "an HDF5 file"),
    (b"<", "text"),
    (b"{", "JSON text"),
)


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
    for tensor in tensors_of(proto, path):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            try:
                load_external(tensor, path)
            except OSError as error:
                told = f"its data file cannot be read: {error.strerror or error}"
                raise BadInput(told, f"{path}: tensor '{tensor.name}'") from error
    return proto, hashlib.sha256(raw).hexdigest()


def tensors_of(proto: onnx.ModelProto, path: Path) -> Iterator[onnx.TensorProto]:
    """Every tensor in a file: initializers and attributes of the graph, of its branches and of its functions."""
    graphs = [proto.graph, *branches(proto.graph.node, path, 1)]
    for function in proto.functions:
        graphs += branches(function.node, path, 1)
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in (n for owner in (*graphs, *proto.functions) for n in owner.node):
        for attribute in node.attribute:
            yield from (*attribute.tensors, *((attribute.t,) if attribute.HasField("t") else ()))
            for sparse in (*attribute.sparse_tensors, attribute.sparse_tensor):
                yield from (sparse.values, sparse.indices) if sparse.HasField("values") else ()


def branches(nodes: Iterable[onnx.NodeProto], path: Path, depth: int) -> Iterator[onnx.GraphProto]:
    """The graphs inside of nodes, and those inside of these."""
    for attribute in (a for n in nodes for a in n.attribute):
        for graph in (*attribute.graphs, *((attribute.g,) if attribute.HasField("g") else ())):
            if depth > DEEPEST:
                raise BadInput(f"branches are nested more than {DEEPEST} deep", str(path))
            yield graph
            yield from branches(graph.node, path, depth + 1)


def load_external(tensor: onnx.TensorProto, path: Path) -> None:
    """Fill a tensor that lies beside the model; a path that leaves the model's folder is refused."""
    home = path.resolve().parent
    where = {e.key: e.value for e in tensor.external_data}
    location, name = where.get("location", ""), f"{path}: tensor '{tensor.name}'"
    file = home / location.replace("\0", "/")
    inside = file.parent.resolve() == home or home in file.parent.resolve().parents
    if not location or "\0" in location or Path(location).is_absolute() or not inside or file.is_symlink():
        raise BadInput("its data path leaves the model's folder; refused", name)
    if file.exists() and (not file.is_file() or file.stat().st_nlink > 1):
        raise BadInput("its data file is no ordinary file of the model's folder; refused", name)
    try:
        offset, length = int(where.get("offset", 0)), int(where["length"]) if "length" in where else None
    except ValueError as error:
        raise BadInput("its data offset or length is no number", name) from error
    if not file.exists():
        raise BadInput(f"its data file {location} is missing", name)
    size = file.stat().st_size
    if min(offset, length or 0) < 0:
        raise BadInput("its data offset or length is negative", name)
    if offset + (length or 0) > size:
        reach = f"offset {offset}" if length is None or offset > size else f"offset {offset} + {length} bytes"
        raise BadInput(f"{reach} is past the end of {file.name} ({size} bytes)", name)
    with file.open("rb") as content:
        content.seek(offset)
        tensor.raw_data = content.read(length)
    tensor.ClearField("data_location")  # as a tensor that was never anywhere else
    del tensor.external_data[:]


def check_graph(proto: onnx.ModelProto, path: Path) -> None:
    """Nodes can be read, tensors hold what they say, and the order of nodes is as `check_order` leaves it."""
    graph = proto.graph
    check_texts(proto, path)
    check_nodes(proto, path)
    if not graph.output:
        raise BadInput("the graph has no output", str(path))
    for tensor in tensors_of(proto, path):
        check_tensor(tensor, path)
    for sparse in graph.sparse_initializer:
        raise Unsupported(f"tensor '{sparse.values.name}' is sparse", str(path), "Store it as a dense one")
    check_order(graph, path)


def check_order(graph: onnx.GraphProto, path: Path) -> None:
    """Values are made once and before they are used; unsorted nodes are sorted."""
    given = given_names(graph, path)
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
        if output.name not in made and output.name not in given - {""}:
            raise BadInput(f"output '{output.name}' is never made", str(path))


def check_texts(proto: onnx.ModelProto, path: Path) -> None:
    """What is said about the model is text: a damaged byte would come to light when it is written again."""
    said = [proto.producer_name, proto.producer_version, proto.domain, proto.doc_string, proto.graph.doc_string]
    said += [text for p in (*proto.metadata_props, *proto.graph.metadata_props) for text in (p.key, p.value)]
    if not all(isinstance(text, str) for text in said):  # protobuf hands out what is no UTF-8 as bytes
        raise BadInput("what it says about itself is no text: it is damaged", str(path))


def check_nodes(proto: onnx.ModelProto, path: Path) -> None:
    """Every node, those of branches and functions too, can be read, and its domain has an opset."""
    opsets = {o.domain: o.version for o in proto.opset_import}
    for node in proto.graph.node:
        if node.domain not in {*opsets, *STANDARD}:
            where = f"{path}: {node.op_type} '{node.name}'"
            raise BadInput(f"is of the domain '{node.domain}', which has no opset", where)
    for owner, imports in ((proto.graph, proto.opset_import), *((f, f.opset_import) for f in proto.functions)):
        inner = [*branches(owner.node, path, 1)]
        for graph in inner:
            check_branch(graph, path)
        opset = next((o.version for o in imports if o.domain in STANDARD), 0)
        for node in (n for part in (owner, *inner) for n in part.node):
            check_node(node, opset, isinstance(owner, onnx.FunctionProto), path)
            node.ClearField("device_configurations")  # on which of several devices it ran: nothing here reads it


def check_branch(branch: onnx.GraphProto, path: Path) -> None:
    """What a branch makes it makes before it reads it, and what it ends in is made in it."""
    later = Counter(o for n in branch.node for o in n.output if o)
    for node in branch.node:
        for name in (n for n in node.input if later[n]):
            who = f"{node.op_type} '{node.name}' in the branch '{branch.name}'"
            raise BadInput(f"{who} reads '{name}' before it is made", str(path))
        later -= Counter(node.output)
    made = {o for n in branch.node for o in n.output} | {t.name for t in branch.initializer}
    made |= {v.name for v in branch.input}
    for output in branch.output:
        if output.name not in made - {""}:
            raise BadInput(f"output '{output.name}' of the branch '{branch.name}' is never made in it", str(path))


def given_names(graph: onnx.GraphProto, path: Path) -> set[str]:
    """Names of inputs and initializers, each given once; and "", an input that is left out."""
    for value in graph.input:
        check_input(value, path)
    held = [t.name for t in graph.initializer] + [t.values.name for t in graph.sparse_initializer]
    if not all(isinstance(n, str) for n in (*held, *(v.name for v in (*graph.input, *graph.output)))):
        raise BadInput("the name of a tensor, an input or an output is no text", str(path))
    for names in ([i.name for i in graph.input], held):
        if len(set(names)) < len(names):
            raise BadInput(f"value '{Counter(names).most_common(1)[0][0]}' is made twice", str(path))
    return {i.name for i in graph.input} | set(held) | {""}


def check_node(node: onnx.NodeProto, opset: int, in_function: bool, path: Path) -> None:
    """Names are text, attributes are of the kind that onnx knows, and it makes something."""
    names = (node.op_type, node.domain, node.name, *node.input, *node.output, *(a.name for a in node.attribute))
    if not all(isinstance(n, str) for n in names):  # protobuf hands out what is no UTF-8 as bytes
        raise BadInput(f"a name at {node.op_type!r} {node.name!r} is no text", str(path))
    if not any(node.output):
        raise BadInput(f"{node.op_type} '{node.name}' makes nothing", str(path))
    known = kinds(node.op_type, opset) if node.domain in STANDARD else {}
    for attribute in node.attribute:
        who = f"attribute '{attribute.name}' of {node.op_type} '{node.name}'"
        if attribute.ref_attr_name and not in_function:
            raise BadInput(f"{who} is that of a function, and it stands in none", str(path))
        if attribute.type == onnx.AttributeProto.UNDEFINED and not attribute.ref_attr_name:
            raise BadInput(f"{who} has no type", str(path))
        if attribute.type in (onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.SPARSE_TENSORS):
            raise Unsupported(
                f"{node.op_type} '{node.name}' holds a sparse tensor", str(path), "Store it as a dense one"
            )
        if node.op_type == "Einsum" and not EQUATION.fullmatch(attribute.s):
            raise BadInput(f"{who} is no equation: {attribute.s.decode(errors='replace')!r}", str(path))
        if attribute.type != (wanted := known.get(attribute.name, attribute.type)):
            given, needed = (onnx.AttributeProto.AttributeType.Name(t) for t in (attribute.type, wanted))
            raise BadInput(f"{who} is of kind {given}, not {needed}", str(path))


@lru_cache(maxsize=1 << 12)
def kinds(op_type: str, opset: int) -> dict[str, int]:
    """{attribute of a standard op: its kind}; empty for an op that this opset has not."""
    try:
        schema = onnx.defs.get_schema(op_type, opset, "")
    except (onnx.defs.SchemaError, TypeError):  # TypeError: of a version that 32 bits do not hold
        return {}
    return {n: a.type.value for n, a in schema.attributes.items()}  # pyright: ignore[reportAttributeAccessIssue]


def sorted_nodes(graph: onnx.GraphProto, given: set[str], path: Path) -> list[onnx.NodeProto]:
    """The nodes in an order in which every input is there (Kahn 1962); the file's own order where that is one."""
    ready = set(given)
    missing: dict[int, int] = {}
    readers: dict[str, list[int]] = {}
    for i, node in enumerate(graph.node):
        missing[i] = len(absent := reads(node) - given)
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


def reads(node: onnx.NodeProto) -> set[str]:
    """Names of the values that a node reads, those that its branches take from around them too."""
    found = set(node.input)
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *((attribute.g,) if attribute.HasField("g") else ())):
            inside = {v.name for v in graph.input} | {t.name for t in graph.initializer}
            inside |= {t.values.name for t in graph.sparse_initializer} | {o for n in graph.node for o in n.output}
            found |= set().union(*map(reads, graph.node), {v.name for v in graph.output}) - inside
    return found


def stuck(left: list[onnx.NodeProto], produced: set[str]) -> str:
    """Why no further node can run: an input that nobody makes, or a cycle."""
    makers = {o: n for n in left for o in n.output}
    for node in left:
        for name in sorted(reads(node)):
            if name not in produced and name not in makers:
                return f"{node.op_type} '{node.name}' reads '{name}', which nothing makes"
    node = left[0]
    seen: list[onnx.NodeProto] = []
    while all(node is not s for s in seen):
        seen.append(node)
        node = next(makers[i] for i in sorted(reads(node)) if i not in produced)
    names = [s.name or s.output[0] for s in reversed(seen[next(i for i, s in enumerate(seen) if s is node) :])]
    return "the graph has a cycle through " + " → ".join(f"'{n}'" for n in names)


def check_tensor(tensor: onnx.TensorProto, path: Path) -> None:
    """Declared and stored sizes agree."""
    where = f"{path}: tensor '{tensor.name}'"
    if any(d < 0 for d in tensor.dims):
        raise BadInput(f"has a negative dimension {list(tensor.dims)}", where)
    if tensor.data_type not in onnx.TensorProto.DataType.values() or tensor.data_type == onnx.TensorProto.UNDEFINED:
        raise BadInput(f"has the unknown data type {tensor.data_type}", where)
    if tensor.data_type == onnx.TensorProto.STRING:
        if math.prod(tensor.dims) != len(tensor.string_data):
            raise BadInput(f"declares {math.prod(tensor.dims):,} texts but stores {len(tensor.string_data):,}", where)
        return
    bits = math.prod(tensor.dims) * ir.DataType(tensor.data_type).bitwidth
    if tensor.HasField("raw_data"):
        declared, stored = -(-bits // 8), len(tensor.raw_data)
        if declared != stored:
            raise BadInput(f"declares {quantity(declared)} but stores {quantity(stored)}", where)
    elif ir.DataType(tensor.data_type).bitwidth >= 8:
        per_element = 2 if tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128) else 1
        declared = math.prod(tensor.dims) * per_element
        stored = len(getattr(tensor, onnx.helper.tensor_dtype_to_field(tensor.data_type)))
        if declared != stored:
            raise BadInput(f"declares {declared:,} numbers but stores {stored:,}", where)


def quantity(size: int) -> str:
    """48 bytes, 111.8 GiB."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size:,} bytes"


def check_input(value: onnx.ValueInfoProto, path: Path) -> None:
    """A graph's input is a dense tensor of numbers."""
    kind = value.type.WhichOneof("value")
    if kind is None:
        raise BadInput(f"input '{value.name}' has no type", str(path))
    dtype = value.type.tensor_type.elem_type
    if kind != "tensor_type" or dtype == onnx.TensorProto.STRING:
        what = "string tensor" if kind == "tensor_type" else kind.removesuffix("_type").replace("_", " ")
        article = "an" if what[0] in "aeiou" else "a"
        raise Unsupported(f"input '{value.name}' is {article} {what}", str(path), "Only tensors of numbers can be fed")
    if dtype not in onnx.TensorProto.DataType.values() or dtype == onnx.TensorProto.UNDEFINED:
        raise BadInput(f"input '{value.name}' has the unknown data type {dtype}", str(path))


# Names of ops stand here and not in the op table, which is asked only of files that were found sound.
FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
BOUNDS = {"Add", "Sub", "Where", "Clip", "Max", "Min", "Pad"}  # where an infinity is meant: masks, open bounds
MOVES = {
    "Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile",
    "Transpose", "Trilu", "Unsqueeze",
}  # fmt: skip


def check_parameters(graph: ir.Graph, path: Path) -> None:
    """No NaN in a float parameter, and no infinity but in a mask or a bound."""
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype not in FLOATS:
            continue
        array = tensor.numpy()
        with np.errstate(invalid="ignore"):  # ∞ − ∞ is what is looked for
            total = array.sum(dtype=np.float64)
        if np.isfinite(total):
            continue  # one pass without a temporary: a NaN or an infinity always survives a sum
        bad = ~np.isfinite(array)
        if not bad.any():
            continue
        kind = "NaN" if np.isnan(array).any() else "infinity"
        if kind == "infinity" and is_bound(value):
            continue
        first = [int(i) for i in np.argwhere(bad)[0]]
        raise BadInput(f"has {int(bad.sum())} {kind} (first at {first})", f"{path}: tensor '{value.name}'")


def is_bound(value: ir.Value) -> bool:
    """Whether a value ends, moved about perhaps, as a mask or a bound everywhere."""
    return all(
        u.node.op_type in BOUNDS or (u.node.op_type in MOVES and all(map(is_bound, u.node.outputs)))
        for u in value.uses()
    )
