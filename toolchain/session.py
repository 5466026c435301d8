"""onnxruntime sessions: the one place that knows how we run graphs in process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from toolchain.errors import Unsupported
from toolchain.inference import reads
from toolchain.onnx_file import to_bytes

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime as ort
    from numpy.typing import NDArray


def session(model: ir.Model, threads: int = 1, prepack: bool = True) -> ort.InferenceSession:
    """A CPU session with all graph optimisations, deterministic in its thread count.

    prepack  lay weights out anew for speed: what runs once need not

    Raises Unsupported where onnxruntime has no kernel for a node.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # the pattern's block comes on top of the arena: twice the memory, no faster
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    options.log_severity_level = 4  # errors reach the user as exceptions, once
    try:
        return ort.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise Unsupported(f"onnxruntime cannot run the model: {str(error).splitlines()[0]}") from error


def run(
    runner: ort.InferenceSession, feed: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
) -> list[NDArray[np.float32]]:
    """Run, feeding only what the graph reads."""
    names = {i.name for i in runner.get_inputs()}
    return runner.run(outputs, {k: v for k, v in feed.items() if k in names})  # type: ignore[return-value]


def with_outputs(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A clone whose outputs are these values, without the nodes that they do not need."""
    clone = model.clone()
    values = {str(v.name): v for v in (*clone.graph.inputs, *(o for n in clone.graph for o in n.outputs))}
    clone.graph.outputs.clear()
    for name in names:
        value = values[name]
        if value.is_graph_input():  # an input is no legal output: hand on a copy of it
            node = ir.node("Identity", [value], name=f"jettison/copy/{name}")
            copy = node.outputs[0]
            copy.name, copy.shape, copy.type = f"jettison/copy/{name}", value.shape, value.type
            clone.graph.append(node)
            value = copy
        clone.graph.outputs.append(value)
    kept = set(clone.graph.outputs)
    for node in reversed(list(clone.graph)):
        if any(v in kept for v in node.outputs):
            kept.update(reads(node))
        else:
            clone.graph.remove(node, safe=True)
    for name, value in list(clone.graph.initializers.items()):
        if value not in kept:
            del clone.graph.initializers[name]
    return clone
