"""The ONNX file of a graph, written piece by piece; above 2 GiB with its large parameters in a file beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import onnx
import onnx_ir as ir

LARGEST = 2**31 - 2**24  # bytes of parameters in a protobuf, which ends at 2 GiB
SMALL = 1024  # bytes of a parameter that stays inside in any case
PAGE = 4096  # runtimes map what starts at one


@dataclass(frozen=True)
class Place:
    """Where a parameter's bytes lie: the name of a file beside the model's, and offset and length in it."""

    file: str
    offset: int
    length: int


def to_bytes(model: ir.Model) -> bytes:
    """The ONNX file of a graph."""
    return b"".join(pieces(model))


def pieces(model: ir.Model, opset: int | None = None, outside: Mapping[str, Place] | None = None) -> Iterator[bytes]:
    """The ONNX file, one parameter at a time, so that a gigabyte is never in memory twice more.

    opset    that the file names, the graph's own by default
    outside  parameter -> where it lies in another file

    A graph is field 7 of a model and a parameter field 5 of a graph, each with its length in front. Shapes of
    parameters are not written twice.
    """
    graph, serde = model.graph, ir.serde
    proto = ir.to_proto(without_graph(model))
    for told in proto.opset_import:
        if told.domain in ("", "ai.onnx"):
            told.version = opset or told.version
    for value in graph.inputs:
        serde.serialize_value_into(proto.graph.input.add(), value)
    for node in graph:
        serde.serialize_node_into(proto.graph.node.add(), node)
        for value in node.outputs:
            if not value.is_graph_output() and (value.shape is not None or value.type is not None):
                serde.serialize_value_into(proto.graph.value_info.add(), value)
    for value in graph.outputs:
        serde.serialize_value_into(proto.graph.output.add(), value)
    body = proto.graph.SerializeToString()
    proto.ClearField("graph")
    held = partial(parameter_bytes, outside or {})
    sizes = [len(field(5, held(v))) for v in graph.initializers.values()]
    yield proto.SerializeToString() + b"\x3a" + varint(len(body) + sum(sizes)) + body
    for value in graph.initializers.values():
        yield field(5, held(value))


def parameter_bytes(outside: Mapping[str, Place], value: ir.Value) -> bytes:
    """One parameter, or where it lies in another file."""
    place = outside.get(str(value.name))
    if place is None:
        return tensor_bytes(value)
    assert value.const_value is not None
    shape, kind = list(value.const_value.shape.numpy()), int(value.const_value.dtype)
    proto = onnx.TensorProto(name=str(value.name), dims=shape, data_type=kind, data_location=onnx.TensorProto.EXTERNAL)
    for key, told in (("location", place.file), ("offset", place.offset), ("length", place.length)):
        proto.external_data.add(key=key, value=str(told))
    return proto.SerializeToString()


def without_graph(model: ir.Model) -> ir.Model:
    """All that a file says beside its nodes and values."""
    old = model.graph
    shell = ir.Graph([], [], nodes=[], name=old.name, doc_string=old.doc_string, opset_imports=old.opset_imports)
    shell.metadata_props.update(old.metadata_props)
    return ir.Model(
        shell, ir_version=model.ir_version, producer_name=model.producer_name, producer_version=model.producer_version,
        domain=model.domain, model_version=model.model_version, doc_string=model.doc_string,
        functions=list(model.functions.values()), metadata_props=dict(model.metadata_props),
    )  # fmt: skip


def tensor_bytes(value: ir.Value) -> bytes:
    """One parameter under its value's name."""
    assert value.const_value is not None
    proto = ir.serde.serialize_tensor(value.const_value)
    proto.name = str(value.name)
    return proto.SerializeToString()


def field(number: int, body: bytes) -> bytes:
    """A protobuf field with its length."""
    return bytes([number << 3 | 2]) + varint(len(body)) + body


def varint(number: int) -> bytes:
    """A length as protobuf writes it: seven bits a byte, the lowest first."""
    low, high = number & 127, number >> 7
    return bytes([low | 128]) + varint(high) if high else bytes([low])


def places(graph: ir.Graph, file: str) -> dict[str, Place]:
    """Where the large parameters of a graph lie beside it if they do not fit into it, each at the start of a page."""
    large = {k: v.const_value.nbytes for k, v in graph.initializers.items() if v.const_value is not None}
    if sum(large.values()) <= LARGEST:
        return {}
    found, end = {}, 0
    for name, size in large.items():
        if size > SMALL:
            found[name] = Place(file, -(-end // PAGE) * PAGE, size)
            end = found[name].offset + size
    return found


def contents(graph: ir.Graph, outside: Mapping[str, Place]) -> Iterator[bytes]:
    """The bytes of parameters at their places."""
    end = 0
    for name, place in outside.items():
        tensor = graph.initializers[name].const_value
        assert tensor is not None
        yield bytes(place.offset - end)
        yield tensor.tobytes()
        end = place.offset + place.length
