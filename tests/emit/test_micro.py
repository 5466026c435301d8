"""What is said of TensorFlow Lite Micro holds in TensorFlow Lite Micro; every row of the CASES of emission."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from emit.test_tflite import CASES, Net, chain, gap, ints, one, samples, weights
from emit.test_tflite_pointwise import CASES as POINTWISE
from emit.test_tflite_shape import CASES as SHAPES

import toolchain.emit.micro_run
from toolchain.cli.reading import inspect_lite
from toolchain.emit import to_tflite
from toolchain.emit.child import run
from toolchain.emit.contents import BITS, contents
from toolchain.emit.kernels import KERNELS, lacking
from toolchain.emit.micro import Arena, arena, require_micro
from toolchain.emit.micro_run import micro_run
from toolchain.emit.run import onnx_outputs
from toolchain.errors import BadInput, RunnerFailed, Unsupported

TOLERANCE = 1e-5  # relative to the largest output: other kernels sum in another order
EVERY = CASES | POINTWISE | SHAPES
QUICK = {*list(CASES)[::4], *list(POINTWISE)[::4], *list(SHAPES)[::4], "gelu", "tile", "slice of rank 5"}
needs_micro = pytest.mark.usefixtures("micro")


@pytest.fixture(scope="module")
def micro() -> None:
    pytest.importorskip("tflite_micro", reason="needs tflite-micro: pip install --pre tflite-micro")


@needs_micro
@pytest.mark.parametrize("case", [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in EVERY])
def test_what_the_profile_says_of_a_file_is_what_the_interpreter_does(case: str, tmp_path: Path) -> None:
    """It loads exactly what lacks nothing; that answers as LiteRT does, and uses the arena that was planned."""
    model = EVERY[case]().model(tmp_path)
    path, feeds = tmp_path / "net.tflite", samples(model)
    to_tflite(model).write(path)
    lacks = lacking(contents(path.read_bytes()))
    if lacks:
        with pytest.raises(RunnerFailed, match="TFLite Micro"):
            micro_run(path, feeds)
    try:
        to_tflite(model, profile="micro").write(path)
    except Unsupported as refused:
        assert lacks, refused
        return
    found = micro_run(path, feeds)
    assert gap(found.outputs, run(str(path), feeds)) <= TOLERANCE
    assert arena(path.read_bytes()).head_bytes == found.head_bytes


@needs_micro
@pytest.mark.parametrize("case", ["gelu", "gelu tanh", "tile"])
def test_an_op_that_tflite_micro_lacks_is_made_of_those_that_it_has(case: str, tmp_path: Path) -> None:
    model = EVERY[case]().model(tmp_path)
    assert lacking(contents(to_tflite(model).data))
    to_tflite(model, profile="micro").write(tmp_path / "net.tflite")
    feeds = samples(model)
    assert gap(micro_run(tmp_path / "net.tflite", feeds).outputs, onnx_outputs(model, feeds)) <= TOLERANCE


# ---- lives and places ----------------------------------------------------------------------------------------------
def together(found: Arena) -> list[tuple[Any, Any]]:
    """Pairs of blocks that share a moment."""
    pairs = [(a, b) for i, a in enumerate(found.blocks) for b in found.blocks[:i]]
    return [(a, b) for a, b in pairs if a.first <= b.last and b.first <= a.last]


@pytest.mark.parametrize("case", CASES)
def test_what_lives_together_lies_apart_and_the_peak_is_the_top(case: str, tmp_path: Path) -> None:
    found = arena(to_tflite(CASES[case]().model(tmp_path)).data)
    for a, b in together(found):
        assert a.offset + a.bytes <= b.offset or b.offset + b.bytes <= a.offset
    assert all(b.offset % 16 == 0 == b.bytes % 16 for b in found.blocks)
    assert found.peak is not None
    assert max(b.offset + b.bytes for b in found.alive(found.peak)) == found.head_bytes


def test_the_arena_of_a_chain_is_its_two_largest_neighbours(tmp_path: Path) -> None:
    shapes = [(4, 3, 1, 1), (9, 4, 1, 1), (2, 9, 1, 1)]
    model = chain((3, 8, 8), *(("Conv", weights(*s)) for s in shapes))().model(tmp_path)
    found = arena(to_tflite(model).data)
    assert found.head_bytes == 4 * 64 * (4 + 9)
    assert found.peak == 1
    assert [b.bytes for b in found.alive(1)] == [4 * 64 * 9, 4 * 64 * 4]


@pytest.mark.parametrize(
    "edit",
    [
        lambda g: setattr(g.operators[0], "outputs", []),
        lambda g: setattr(g.operators[0], "inputs", [99]),
        lambda g: setattr(g.operators[0], "outputs", [-1]),
        lambda g: setattr(g.tensors[0], "shape", [-4]),
        lambda g: setattr(g, "outputs", [99]),
    ],
    ids=["makes nothing", "reads none", "makes none", "negative", "ends in none"],
)
def test_a_file_that_points_nowhere_is_refused(edit: Callable[[Any], None], tmp_path: Path) -> None:
    file = schema.ModelT.InitFromPackedBuf(to_tflite(one("Relu", (4,))().model(tmp_path)).data, 0)
    edit(file.subgraphs[0])
    builder = flatbuffers.Builder()
    builder.Finish(file.Pack(builder), b"TFL3")
    with pytest.raises(BadInput, match="is a damaged TFLite file"):
        contents(bytes(builder.Output()), "net.tflite")


def test_an_op_that_lacks_an_input_is_damage(tmp_path: Path) -> None:
    file = schema.ModelT.InitFromPackedBuf(to_tflite(CASES["conv"]().model(tmp_path)).data, 0)
    for op in file.subgraphs[0].operators:
        op.inputs = op.inputs[:0]
    builder = flatbuffers.Builder()
    builder.Finish(file.Pack(builder), b"TFL3")
    (tmp_path / "net.tflite").write_bytes(bytes(builder.Output()))
    with pytest.raises(BadInput, match="is a damaged TFLite file"):
        inspect_lite(tmp_path / "net.tflite", memory=False, form="table")


def test_a_kernel_that_we_cannot_see_is_named(tmp_path: Path) -> None:
    file = schema.ModelT.InitFromObj(schema.Model.GetRootAs(to_tflite(one("Relu", (4,))().model(tmp_path)).data))
    file.operatorCodes = [schema.OperatorCodeT(deprecatedBuiltinCode=32, builtinCode=32, customCode="mine", version=1)]
    builder = flatbuffers.Builder()
    builder.Finish(file.Pack(builder), b"TFL3")
    found = arena(bytes(builder.Output()))
    assert found.unknown == ("CUSTOM 'relu0'",)
    assert found.head_bytes == 32


# ---- refusals ------------------------------------------------------------------------------------------------------
def test_an_op_that_tflite_micro_lacks_is_named_with_its_node_and_a_way_out(tmp_path: Path) -> None:
    model = chain((5,), ("Relu",), ("Pow", np.float32(1.7)))().model(tmp_path)
    with pytest.raises(Unsupported, match=r"Pow 'pow1': TFLite Micro has no POW") as caught:
        require_micro(to_tflite(model).data, model.graph)
    assert caught.value.way_out
    assert caught.value.exit_code == 4


def test_more_axes_than_a_kernel_takes_are_named(tmp_path: Path) -> None:
    turned, last = ("Transpose", {"perm": [0, 6, 5, 4, 3, 2, 1]}), ("Softmax", {"axis": -1})
    model = chain((64,), ("Reshape", ints(0, 2, 2, 2, 2, 2, 2)), last, turned, last)().model(tmp_path)
    with pytest.raises(Unsupported, match=r"takes 5 axes, not 7"):
        require_micro(to_tflite(model).data, model.graph)


@needs_micro
@pytest.mark.parametrize(("parts", "is_lacking"), [(10, False), (11, True), (25, True)])
def test_more_parts_than_a_concatenation_takes_are_joined_in_turn(parts: int, is_lacking: bool, tmp_path: Path) -> None:
    net = Net((4, 5))
    names = [net.op("Mul", "x", np.float32(i + 1)) for i in range(parts)]
    net.op("Concat", *names, axis=1)
    model = net.model(tmp_path)
    assert bool(lacking(contents(to_tflite(model).data))) is is_lacking
    to_tflite(model).write(tmp_path / "lite.tflite")
    feeds = samples(model, 1)
    if is_lacking:
        with pytest.raises(RunnerFailed, match="TFLite Micro"):
            micro_run(tmp_path / "lite.tflite", feeds)
    to_tflite(model, profile="micro").write(tmp_path / "net.tflite")
    assert gap(micro_run(tmp_path / "net.tflite", feeds).outputs, onnx_outputs(model, feeds)) <= TOLERANCE


def test_every_type_that_a_kernel_takes_has_a_size() -> None:
    assert {t for kernel in KERNELS.values() for t in kernel.types} <= BITS.keys()


# ---- what goes wrong -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("data", [b"", b"TFL3", b"\x1c\0\0\0TFL3" + b"\xff" * 60, b"\x08\x08onnx-like bytes"])
def test_bytes_that_are_no_file_are_bad_input(data: bytes) -> None:
    with pytest.raises(BadInput):
        arena(data)


@needs_micro
def test_a_crash_of_the_interpreter_is_an_error_and_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = one("Relu", (4,))().model(tmp_path)
    to_tflite(model).write(tmp_path / "net.tflite")
    (tmp_path / "crash.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGABRT)")
    monkeypatch.setattr(toolchain.emit.micro_run, "CHILD", tmp_path / "crash.py")
    with pytest.raises(RunnerFailed, match=r"the TFLite Micro runtime crashed \(signal 6") as caught:
        micro_run(tmp_path / "net.tflite", samples(model))
    assert caught.value.exit_code == 6
