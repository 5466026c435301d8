"""Shapes and constants of every value at one concrete batch size, by one forward walk.

onnx infers each node's output from concrete input shapes; a node whose inputs are all known is evaluated by onnx's own
reference. Equal nodes on equal shapes are inferred once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from toolchain.errors import BadInput

LARGEST_CONSTANT = 1 << 26  # elements that folding may make: a ConstantOfShape can ask for any number
LARGEST_AXIS = 1 << 24  # positions along one axis: each gets an id
SMALL = 4096  # elements up to which a constant may decide a shape
RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}

# what trips over a node that onnx's own inference lets pass: starts without an axis, an input left out
MALFORMED = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


class Uninferable(Exception):
    """A node whose shapes contradict each other; the message names it."""


@dataclass(frozen=True, slots=True)
class Known:
    """What one walk knows of a value: shape None is unknown, array is there for constants."""

    dtype: ir.DataType | None
    shape: tuple[int, ...] | None
    array: NDArray[Any] | None = None


Took = list["Known | None"]


def as_written(node: ir.Node, took: Took) -> Took:
    """What a node's inputs are, as the file has them."""
    return took


def infer(
    graph: ir.Graph,
    inputs: dict[ir.Value, tuple[int, ...]],
    read: Callable[[ir.Node, Took], Took] = as_written,
) -> dict[ir.Value, Known]:
    """Walk the graph with these input shapes.

    read  what to take a node's inputs for, where the file's own words hold at another batch only

    Raises Uninferable where the shapes contradict each other.
    """
    known = {v: Known(v.dtype, s) for v, s in inputs.items()}
    for v in graph.initializers.values():
        assert v.const_value is not None
        known[v] = Known(v.const_value.dtype, tuple(v.const_value.shape.numpy()), None)
    grown = 0
    for node in graph:
        with asking(node):
            took = read(node, [None if v is None else known.get(v, Known(v.dtype, None)) for v in node.inputs])
            made = outputs_of(node, took)
        sizes = [size for k in made for size in k.shape or ()]
        if max(sizes, default=0) > LARGEST_AXIS:
            raise Uninferable(f"{where(node)} makes a value with an axis longer than {LARGEST_AXIS:,}")
        if min(sizes, default=0) < 0:  # a window larger than what it slides over
            raise Uninferable(f"{where(node)} makes a value with an axis of {min(sizes):,} positions")
        known |= zip(node.outputs, made, strict=False)
        grown += growth(node, took, made) if any(k.array is not None for k in made) else 0
        check_growth(node, grown)
    for v in graph.initializers.values():
        known.pop(v)
    return known


def growth(node: ir.Node, took: Sequence[Known | None], made: Sequence[Known]) -> int:
    """Elements that a node's outputs have more than its inputs, each value counted once."""
    read = dict(zip(node.inputs, took, strict=True)).values()
    before, after = (
        sum(math.prod(k.shape) for k in ks if k is not None and k.shape is not None) for ks in (read, made)
    )
    return max(after - before, 0)


def check_growth(node: ir.Node, elements: int) -> None:
    """Raise BadInput where constants of this size came from nothing."""
    if elements > LARGEST_CONSTANT:
        raise BadInput(
            f"{where(node)} makes a constant of {elements:,} elements from nothing, limit {LARGEST_CONSTANT:,}"
        )


def where(node: ir.Node) -> str:
    """How messages name a node."""
    return f"{node.op_type} '{node.name or node.outputs[0].name}'"


@contextmanager
def asking(node: ir.Node) -> Iterator[None]:
    """Around whatever reads a node: raises BadInput, with its name, for what trips over what it says."""
    try:
        yield
    except MALFORMED as error:
        raise BadInput(f"{where(node)} contradicts what it reads: {error or type(error).__name__}") from error


def reads(node: ir.Node) -> set[ir.Value]:
    """Values that a node reads, those that its branches take from around them too."""
    found = {v for v in node.inputs if v is not None}
    for attribute in node.attributes.values():
        graphs = attribute.as_graphs() if attribute.type == ir.AttributeType.GRAPHS else ()
        for graph in (attribute.as_graph(),) if attribute.type == ir.AttributeType.GRAPH else graphs:
            inside = {*graph.inputs, *graph.initializers.values(), *(o for n in graph for o in n.outputs)}
            found |= set().union(*map(reads, graph), graph.outputs) - inside
    return found


def outputs_of(node: ir.Node, took: list[Known | None]) -> list[Known]:
    """What is known of a node's outputs."""
    took = [with_array(v, k) for v, k in zip(node.inputs, took, strict=True)]
    first = took[0] if took else None
    if node.op_type == "Shape" and node.domain == "" and first is not None and first.shape is not None:
        start = node.attributes["start"].as_int() if "start" in node.attributes else 0
        end = node.attributes["end"].as_int() if "end" in node.attributes else len(first.shape)
        array = np.array(first.shape[start:end], np.int64)
        return [Known(ir.DataType.INT64, array.shape, array)]
    if node.op_type == "Size" and node.domain == "" and first is not None and first.shape is not None:
        return [Known(ir.DataType.INT64, (), np.array(math.prod(first.shape), np.int64))]
    found = inferred(node, took)
    if is_foldable(node, took, found):
        arrays = evaluate(
            node, [None if k is None else full_array(v, k) for v, k in zip(node.inputs, took, strict=True)]
        )
        return [Known(ir.DataType.from_numpy(a.dtype), a.shape, a) for a in arrays]
    return found


def with_array(value: ir.Value | None, k: Known | None) -> Known | None:
    """Known with its array, where a small initializer may decide a shape."""
    if value is None or k is None or k.array is not None or value.const_value is None or k.shape is None:
        return k
    return Known(k.dtype, k.shape, value.const_value.numpy()) if math.prod(k.shape) <= SMALL else k


def full_array(value: ir.Value | None, k: Known) -> NDArray[Any]:
    """The array of a constant of any size."""
    if k.array is not None:
        return k.array
    assert value is not None and value.const_value is not None
    return value.const_value.numpy()


def is_foldable(node: ir.Node, took: list[Known | None], found: list[Known]) -> bool:
    """All inputs constant, the op a pure one, the result of bounded size."""
    if (
        node.domain not in ("", "ai.onnx")
        or node.op_type in RANDOM
        or any(a.type in SUBGRAPH for a in node.attributes.values())
    ):
        return False
    if "QuantizeLinear" in node.op_type:  # QDQ pairs are left as they are: folding would undo the quantisation
        return False
    if not all(
        k is None or k.array is not None or v.const_value is not None
        for v, k in zip(node.inputs, took, strict=True)
        if v is not None
    ):
        return False
    check_growth(node, growth(node, took, found))
    return all(k.shape is not None for k in found)


SUBGRAPH = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


# with ceil_mode, older schemas of onnx 1.23 count a last window that starts in the padding; no runtime does
CEILED = {"AveragePool", "MaxPool", "LpPool"}
AS_INPUT = {"GroupNormalization", "MeanVarianceNormalization"}  # functions that onnx gives no inference of their own


def inferred(node: ir.Node, took: list[Known | None]) -> list[Known]:
    """Output shapes by onnx's inference for this op, from a cache that ignores names."""
    unknown = [Known(v.dtype, None) for v in node.outputs]
    if node.domain not in ("", "ai.onnx") or any(a.type in SUBGRAPH for a in node.attributes.values()):
        return unknown
    if any(k is not None and (k.shape is None or k.dtype is None) for k in took):
        return unknown
    if node.op_type in AS_INPUT and took[0] is not None:
        return [Known(took[0].dtype, took[0].shape)]
    types = tuple(None if k is None else (int(k.dtype or 0), k.shape, small_bytes(k)) for k in took)
    version = node.version or (node.graph.opset_imports.get("", 20) if node.graph else 20)
    if node.op_type in CEILED:
        version = max(version, 22)
    attributes = tuple(sorted((n, attribute_bytes(a)) for n, a in node.attributes.items()))
    answer = cached_inference(node.op_type, version, attributes, types, len(node.outputs))
    if isinstance(answer, str):
        raise Uninferable(f"{where(node)}: {answer}")
    return [
        Known(v.dtype, None) if a is None else Known(ir.DataType(a[0]), a[1])
        for v, a in zip(node.outputs, answer, strict=True)
    ]


def attribute_bytes(attribute: ir.Attr) -> bytes:
    """The protobuf of an attribute; `to_proto` first tries a dozen protocols, which was a third of a load."""
    write = ir.to_proto if attribute.is_ref() else ir.serde.serialize_attribute
    return write(attribute).SerializeToString()


def small_bytes(k: Known) -> bytes | None:
    """The bytes of a constant that may decide a shape."""
    return k.array.tobytes() if k.array is not None and k.array.size <= SMALL and k.array.dtype.kind in "iufb" else None


@lru_cache(maxsize=1 << 16)
def cached_inference(
    op_type: str, version: int, attributes: tuple[tuple[str, bytes], ...], types: tuple[Any, ...], outputs: int
) -> str | list[tuple[int, tuple[int, ...]] | None]:
    """Shape inference of one nameless node: [(dtype, shape) or None], or why its shapes contradict each other."""
    try:
        schema = onnx.defs.get_schema(op_type, version, "")
    except onnx.defs.SchemaError:
        return list[tuple[int, tuple[int, ...]] | None]([None] * outputs)
    node = onnx.NodeProto(op_type=op_type, output=[f"y{i}" for i in range(outputs)])
    node.input.extend("" if t is None else f"x{i}" for i, t in enumerate(types))
    node.attribute.extend(onnx.AttributeProto.FromString(b) for _, b in attributes)
    input_types = {f"x{i}": onnx.helper.make_tensor_type_proto(t[0], t[1]) for i, t in enumerate(types) if t}
    data = {
        f"x{i}": onnx.TensorProto(name=f"x{i}", data_type=t[0], dims=t[1], raw_data=t[2])
        for i, t in enumerate(types)
        if t and t[2] is not None
    }
    opsets = [onnx.helper.make_opsetid("", version)]
    try:
        answer = onnx.shape_inference.infer_node_outputs(schema, node, input_types, data, opset_imports=opsets)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, ValueError) as error:
        return str(error).strip().splitlines()[-1]  # ValueError: of a Cast to a type that there is none of
    found: list[tuple[int, tuple[int, ...]] | None] = []
    for i in range(outputs):
        kind = answer.get(f"y{i}")
        tensor = kind.tensor_type if kind is not None and kind.HasField("tensor_type") else None
        static = (
            tensor is not None and tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim)
        )
        if tensor is not None and static and tensor.elem_type:
            found.append((tensor.elem_type, tuple(d.dim_value for d in tensor.shape.dim)))
        else:
            found.append(None)
    return found


def evaluate(node: ir.Node, arrays: list[NDArray[Any] | None]) -> list[NDArray[Any]]:
    """Run one node of constants in onnx's reference evaluator."""
    from onnx.reference import ReferenceEvaluator

    version = node.graph.opset_imports.get("", 20) if node.graph else 20
    proto = onnx.NodeProto(op_type=node.op_type, output=[f"y{i}" for i in range(len(node.outputs))])
    proto.input.extend("" if a is None else f"x{i}" for i, a in enumerate(arrays))
    proto.attribute.extend(ir.to_proto(a) for a in node.attributes.values())
    named = {f"x{i}": a for i, a in enumerate(arrays) if a is not None}
    inputs = [
        onnx.helper.make_tensor_value_info(k, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for k, a in named.items()
    ]
    outputs = [onnx.helper.make_empty_tensor_value_info(o) for o in proto.output]
    graph = onnx.helper.make_graph([proto], "constant", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)])
    try:
        return [np.asarray(a) for a in ReferenceEvaluator(model).run(None, named)]
    except Exception as error:  # the reference raises whatever numpy does
        raise Uninferable(f"{where(node)} cannot be computed: {' '.join(str(error).split())[:200]}") from error


def attribute_of(node: ir.Node, name: str, default: int) -> int:
    """A whole number among a node's attributes."""
    return node.attributes[name].as_int() if name in node.attributes else default
