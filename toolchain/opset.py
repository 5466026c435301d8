"""The opset that a graph is written in: its file's own where every node means the same there, another on request.

The schemas of onnx know which ops, attributes, inputs and types an opset has. What they do not know, a change of
meaning under the same words, stands in CHANGED and NEW_WORDS.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir

from toolchain.errors import Unsupported

LOWEST = 13  # before it axes of Squeeze, Split and ReduceSum were attributes, and Softmax flattened
AXES = 18  # opset from which all reductions take axes as an input
CHANGED = {"GridSample", "DFT", "GroupNormalization", "ScatterElements", "ScatterND"}
NEW_WORDS = {b"wrap", b"half_pixel_symmetric", "wrap", "half_pixel_symmetric"}  # of Pad and Resize since 19


def own_opset(model: ir.Model, opset: int) -> int:
    """The opset of a model's file, if its nodes can be said there as they stand; else that of the graph."""
    now = model.graph.opset_imports.get("", 0)
    is_known = LOWEST <= opset < now
    return opset if is_known and not any(unsayable(n, opset, now) for n in model.graph) else now


def lowered(model: ir.Model, opset: int) -> ir.Model:
    """The same network in a lower opset; raises Unsupported with the node that cannot be said there."""
    now = model.graph.opset_imports.get("", 0)
    if not LOWEST <= opset <= now:
        raise Unsupported(f"opset {opset} is not from {LOWEST} to {now}", way_out="Give another --opset, or none")
    clone = model.clone()
    for node in clone.graph:
        restate(node, opset, now)
        why = unsayable(node, opset, now)
        if why:
            name = f"{node.op_type} '{node.name or node.outputs[0].name}'"
            raise Unsupported(f"{why}, opset {opset} has not", name, "Give a higher --opset, or none")
    clone.graph.opset_imports[""] = opset
    drop_unread(clone.graph)
    return clone


def unsayable(node: ir.Node, opset: int, now: int) -> str:
    """What a node has that an older opset does not; "" where it means the same there."""
    if node.domain not in ("", "ai.onnx"):
        return ""
    new = onnx.defs.get_schema(node.op_type, now, "")
    if new.since_version <= opset:
        has_graph = any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())
        return "has a graph inside" if has_graph else ""
    try:
        old = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return f"has an op of opset {new.since_version}"
    if node.op_type in CHANGED:
        return f"has the meaning of opset {new.since_version}"
    if unknown := sorted(set(node.attributes) - set(old.attributes)):
        return f"has the attribute {unknown[0]}"
    if any(isinstance(a.value, str | bytes) and a.value in NEW_WORDS for a in node.attributes.values()):
        return "has a mode"
    if len(given(node.inputs)) > old.max_input:
        return f"has {len(given(node.inputs))} inputs"
    if len(node.outputs) > old.max_output:
        return f"has {len(node.outputs)} outputs"
    types = zip(given(node.inputs), old.inputs if old.max_input == len(old.inputs) else [], strict=False)
    return next((f"reads {v.dtype.name}" for v, i in types if v and v.dtype and named(v.dtype) not in i.types), "")


def given(values: Sequence[ir.Value | None]) -> Sequence[ir.Value | None]:
    """Inputs without those left out at the end."""
    last = max((i for i, v in enumerate(values) if v is not None), default=-1)
    return values[: last + 1]


def named(dtype: ir.DataType) -> str:
    """A type as schemas write it."""
    return f"tensor({dtype.name.lower()})"


def restate(node: ir.Node, opset: int, now: int) -> None:
    """Say a reduction's axes as the attribute that they were, and leave out attributes that have their default."""
    if node.domain not in ("", "ai.onnx"):
        return
    schema = onnx.defs.get_schema(node.op_type, now, "")
    for name in [k for k in node.attributes if k in schema.attributes]:
        default = schema.attributes[name].default_value
        if default.name and onnx.helper.get_attribute_value(default) == node.attributes[name].value:
            del node.attributes[name]
    is_moved = node.op_type.startswith("Reduce") and node.op_type != "ReduceSum" and opset < AXES
    axes = node.inputs[1] if is_moved and len(node.inputs) > 1 else None
    if axes is not None and axes.const_value is not None and not node.attributes.get("noop_with_empty_axes"):
        node.attributes["axes"] = ir.AttrInt64s("axes", axes.const_value.numpy().tolist())
        node.resize_inputs(1)


def drop_unread(graph: ir.Graph) -> None:
    """Leave out parameters that no node reads any more."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
