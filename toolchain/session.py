"""onnxruntime sessions: the one place that knows how we run graphs in process.

What a graph without a Loop takes is known before it runs; a Loop takes what its file says. So one that has a Loop runs
on an arena that ends at half of this computer's memory, and a run of it is ended after LOOP_SECONDS.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from threading import Timer
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from toolchain.errors import RunnerFailed, Unsupported
from toolchain.inference import reads
from toolchain.onnx_file import to_bytes

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime as ort
    from numpy.typing import NDArray


LOOP_SECONDS = 6.0
LOOPING: weakref.WeakSet[ort.InferenceSession] = weakref.WeakSet()
TYPES = {  # of inputs that samples, which are float32, are cast to
    "tensor(float16)": "float16", "tensor(double)": "float64", "tensor(int64)": "int64", "tensor(int32)": "int32",
    "tensor(int16)": "int16", "tensor(int8)": "int8", "tensor(uint8)": "uint8", "tensor(bool)": "bool",
}  # fmt: skip


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
    if is_looping := any(n.op_type == "Loop" for n in model.graph.all_nodes()):
        bounded_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
    try:
        made = ort.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise Unsupported(f"onnxruntime cannot run the model: {first_line(error)}") from error
    if is_looping:
        LOOPING.add(made)
    return made


@cache
def bounded_arena() -> None:
    """Register the arena of sessions that ask for the environment's own: half of this computer's memory."""
    import onnxruntime as ort

    limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    place = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(place, ort.OrtArenaCfg({"max_mem": limit}))


def first_line(error: Exception) -> str:
    """What an error says first."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def run(
    runner: ort.InferenceSession, feed: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
) -> list[NDArray[np.float32]]:
    """Run, feeding only what the graph reads, in the types that it reads; raises RunnerFailed where it cannot run."""
    import onnxruntime as ort

    kinds = {i.name: TYPES.get(i.type) for i in runner.get_inputs()}
    given = {k: v if kinds[k] is None else v.astype(kinds[k], copy=False) for k, v in feed.items() if k in kinds}
    options = ort.RunOptions()
    options.log_severity_level = 4
    try:
        with ended_in_time(runner, options):
            return runner.run(outputs, given, options)  # type: ignore[return-value]
    except Exception as error:  # onnxruntime's exceptions share no base class
        if options.terminate:
            way_out = "A Loop runs as often as the model says: export it without"
            raise RunnerFailed(f"the model did not finish within {LOOP_SECONDS:.0f} s", way_out=way_out) from error
        raise RunnerFailed(f"onnxruntime failed on the model: {first_line(error)}") from error


@contextmanager
def ended_in_time(runner: ort.InferenceSession, options: ort.RunOptions) -> Iterator[None]:
    """A run of a graph with a Loop is told to end when its time is over."""
    if runner not in LOOPING:
        yield
        return
    timer = Timer(LOOP_SECONDS, lambda: setattr(options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


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
