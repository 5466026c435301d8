"""Model files that are broken or mean harm, each by a name that says how; the same for every tool that is tried on them."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from benchmarks.hostile.seeds import MAIN, outside, parsed

Edit = Callable[[onnx.ModelProto], object]
DEEP = 30
LONG = 20_000


def changed(edit: Edit) -> bytes:
    """The sound network with one change."""
    proto = parsed(MAIN)
    edit(proto)
    return proto.SerializeToString()


def tensor(proto: onnx.ModelProto, name: str = "W2") -> TensorProto:
    return next(t for t in proto.graph.initializer if t.name == name)


def hold(proto: onnx.ModelProto, **arrays: Any) -> None:
    """Further initializers."""
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items())


def between(proto: onnx.ModelProto, *nodes: NodeProto) -> None:
    """Nodes that make 'bridge' of 'i', which the last layer reads in its place."""
    last = proto.graph.node.pop()
    last.input[0] = "bridge"
    proto.graph.node.extend([*nodes, last])


def bomb(*nodes: NodeProto, **held: Any) -> bytes:
    """Nodes that make 'grown', which is added to 'i'."""

    def edit(proto: onnx.ModelProto) -> None:
        between(proto, *nodes, helper.make_node("Add", ["i", "grown"], ["bridge"], name="add"))
        hold(proto, **held)

    return changed(edit)


def looped(trips: int, body: str = "Relu") -> bytes:
    """A loop over 'i' that a runtime runs as often as it says."""

    def edit(proto: onnx.ModelProto) -> None:
        info = helper.make_tensor_value_info
        nodes = [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node(
                body, ["z"] * (1 + (body == "Concat")), ["w"], **({"axis": 1} if body == "Concat" else {})
            ),
        ]
        ins = [info("n", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("z", TensorProto.FLOAT, None)]
        outs = [info("on", TensorProto.BOOL, []), info("w", TensorProto.FLOAT, None)]
        graph = helper.make_graph(nodes, "body", ins, outs)
        between(proto, helper.make_node("Loop", ["trips", "yes", "i"], ["bridge"], name="loop", body=graph))
        hold(proto, trips=np.array(trips, np.int64), yes=np.array(True))

    return changed(edit)


def nested() -> bytes:
    """An If in an If in an If …"""

    def edit(proto: onnx.ModelProto) -> None:
        inner = helper.make_node("Relu", ["i"], ["deepest"])
        for n in range(DEEP):
            held = helper.make_graph([inner], "branch", [], [helper.make_tensor_value_info(inner.output[0], 1, None)])
            inner = helper.make_node("If", ["yes"], [f"if{n}"], then_branch=held)
        inner.output[0] = "bridge"
        between(proto, inner)
        hold(proto, yes=np.array(True))

    return changed(edit)


def chain(turned: bool = False) -> bytes:
    """20,000 nodes, in the order in which they run or in the opposite one."""
    nodes = [helper.make_node("Relu", [f"v{n}"], [f"v{n + 1}"]) for n in range(LONG)]
    sides = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4])] for n in ("v0", f"v{LONG}")]
    graph = helper.make_graph(nodes[::-1] if turned else nodes, "chain", *sides)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def elsewhere(**told: object) -> bytes:
    """The sound network with one tensor in another file."""
    proto = parsed(MAIN)
    held = tensor(proto)
    held.ClearField("raw_data")
    held.data_location = TensorProto.EXTERNAL
    for key, value in told.items():
        held.external_data.add(key=key, value=str(value))
    return proto.SerializeToString()


def typed(dtype: np.dtype[Any] | type, onnx_type: int) -> bytes:
    """A Gemm whose input and weights are of a type."""
    held = helper.make_tensor("W", onnx_type, (4, 3), np.ones((4, 3), dtype).ravel())
    sides = [[helper.make_tensor_value_info(n, onnx_type, ["N", s])] for n, s in (("x", 4), ("y", 3))]
    graph = helper.make_graph([helper.make_node("Gemm", ["x", "W"], ["y"])], "typed", *sides, [held])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def with_input(info: onnx.ValueInfoProto) -> bytes:
    return changed(lambda p: p.graph.input[0].CopyFrom(info))


def with_sparse(proto: onnx.ModelProto) -> None:
    """Another parameter, stored as its numbers and their places."""
    values, places = numpy_helper.from_array(np.ones(1, np.float32), "S"), numpy_helper.from_array(np.array([0]))
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [12]))
    between(proto, helper.make_node("Add", ["i", "S"], ["bridge"]))


def edited(name: str, **fields: Any) -> Edit:
    """Fields of a tensor set."""

    def edit(proto: onnx.ModelProto) -> None:
        for key, value in fields.items():
            if key == "dims":
                tensor(proto, name).dims[:] = value
            else:
                setattr(tensor(proto, name), key, value)

    return edit


def with_number(name: str, number: float) -> Edit:
    """The first number of a tensor replaced."""

    def edit(proto: onnx.ModelProto) -> None:
        array = numpy_helper.to_array(tensor(proto, name)).copy()
        array.flat[0] = number
        tensor(proto, name).CopyFrom(numpy_helper.from_array(array, name))

    return edit


def zipped(**members: bytes) -> bytes:
    with io.BytesIO() as buffer:
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return buffer.getvalue()


def contents() -> dict[str, bytes]:
    """Name -> the bytes of a model file that must be refused, or of one that must not be."""
    make, info, F = helper.make_node, helper.make_tensor_value_info, TensorProto.FLOAT
    whole, one = parsed(MAIN).SerializeToString(), np.ones(2, np.float32)
    noise = np.random.default_rng(0).bytes(4096)
    big = lambda *sizes: np.array(sizes, np.int64)
    return {
        "empty": b"", "truncated": whole[: len(whole) // 2], "noise": noise, "text": b"<html>404</html>",
        "lite": b"\x1c\0\0\0TFL3" + bytes(64), "zip": zipped(data=b"x"), "pickle": b"\x80\x02}q\x00.",
        "above": elsewhere(location="../secret.bin"), "absolute": elsewhere(location="/etc/passwd"),
        "symlink": elsewhere(location="link.bin"), "through": elsewhere(location="linked/secret.bin"),
        "hardlink": elsewhere(location="hard.bin"), "device": elsewhere(location="/dev/zero"),
        "fifo": elsewhere(location="pipe"), "gone": elsewhere(location="gone.bin"),
        "negative offset": elsewhere(location="w.bin", offset=-8), "word offset": elsewhere(location="w.bin", offset="x"),
        "far offset": elsewhere(location="w.bin", offset=1_000_000), "long": elsewhere(location="w.bin", length=1 << 40),
        "short": elsewhere(location="w.bin", offset=0, length=8),
        "small raw": changed(edited("W2", dims=[80, 80, 3, 3])), "negative dims": changed(edited("W2", dims=[-8, 8, 3, 3])),
        "overflow": changed(edited("W2", dims=[1 << 62, 4])), "beyond memory": changed(edited("W2", dims=[30_000, 1_000_000])),
        "unknown dtype": changed(edited("W2", data_type=99)),
        "string input": with_input(info("x", TensorProto.STRING, ["N", 4])),
        "sequence input": with_input(helper.make_tensor_sequence_value_info("x", F, ["N", 4])),
        "optional input": with_input(helper.make_value_info("x", helper.make_optional_type_proto(helper.make_tensor_type_proto(F, [1])))),
        "sparse input": with_input(helper.make_sparse_tensor_value_info("x", F, ["N", 4])), "sparse": changed(with_sparse),
        "nan": changed(with_number("W2", np.nan)), "inf": changed(with_number("W2", np.inf)),
        "cycle": changed(lambda p: p.graph.node[2].input.__setitem__(0, "e")),
        "dangling": changed(lambda p: p.graph.node[2].input.__setitem__(0, "nobody")),
        "twice": changed(lambda p: p.graph.node[2].output.__setitem__(0, "b")),
        "no output": changed(lambda p: p.graph.ClearField("output")),
        "unsorted": changed(lambda p: p.graph.node.reverse()),
        "opset 99": changed(lambda p: setattr(p.opset_import[0], "version", 99)),
        "opset 5": changed(lambda p: setattr(p.opset_import[0], "version", 5)),
        "IR 99": changed(lambda p: setattr(p, "ir_version", 99)),
        "custom": changed(lambda p: (between(p, make("Mystery", ["i"], ["bridge"], domain="com.acme")), p.opset_import.append(helper.make_opsetid("com.acme", 1)))),
        "unknown op": changed(lambda p: between(p, make("Relux", ["i"], ["bridge"], name="odd"))),
        "branches": parsed("branches.onnx").SerializeToString(),
        "open shape": with_input(info("x", F, ["N", 1, None, None])), "no rank": with_input(info("x", F, None)),
        "ConstantOfShape": bomb(make("ConstantOfShape", ["z"], ["grown"], name="bomb"), z=big(1 << 20, 1 << 20)),
        "Expand": bomb(make("Expand", ["one", "z"], ["grown"], name="bomb"), one=one, z=big(1 << 40, 2)),
        "Tile": bomb(make("Tile", ["one", "z"], ["grown"], name="bomb"), one=one, z=big(1 << 35)),
        "Resize": changed(lambda p: (hold(p, sc=np.array([1, 1, 60_000, 60_000], np.float32)), p.graph.node.insert(5, make("Resize", ["e", "", "sc"], ["e9"], name="bomb")), p.graph.node[6].input.__setitem__(0, "e9"))),
        "tiled activation": changed(lambda p: (hold(p, z=big(1, 1 << 32)), between(p, make("Tile", ["i", "z"], ["tiled"], name="bomb"), make("ReduceSum", ["tiled"], ["summed"]), make("Mul", ["i", "summed"], ["bridge"])))),
        "nested": nested(), "chain": chain(), "unsorted chain": chain(True),
        "endless loop": looped((1 << 63) - 1), "growing loop": looped(60, "Concat"),
        "names": changed(lambda p: (setattr(p.graph.node[0], "name", "\x1b[31m=cmd()|<script>\n../x"), setattr(tensor(p, "W1"), "name", "\x1b]0;x\x07|<script>=cmd()"), p.graph.node[0].input.__setitem__(1, "\x1b]0;x\x07|<script>=cmd()"))),
        "half": typed(np.float16, TensorProto.FLOAT16), "bfloat": typed(np.float32, TensorProto.BFLOAT16),
        "outside": outside().SerializeToString(), "sound": whole,
    }  # fmt: skip


def write_files(folder: Path) -> dict[str, Path]:
    """Every model file by its name, in a folder of its own beside a secret; w.bin holds what is outside."""
    home = folder / "models"
    home.mkdir()
    (folder / "secret.bin").write_bytes(bytes(1 << 12))
    (home / "w.bin").write_bytes(b"".join(t.raw_data for t in parsed(MAIN).graph.initializer))
    (home / "link.bin").symlink_to(folder / "secret.bin")
    (home / "linked").symlink_to(folder)
    os.link(folder / "secret.bin", home / "hard.bin")
    os.mkfifo(home / "pipe")
    files = {name: home / f"{name}.onnx" for name in contents()}
    for name, content in contents().items():
        files[name].write_bytes(content)
    return files
