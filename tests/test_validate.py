"""Bad model files (BAD_INPUTS.md): each gets one line that says what is wrong, and its exit code."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from compress.networks import NETWORKS, Net, original
from onnx import TensorProto, helper, numpy_helper

from toolchain.errors import BadInput, JettisonError, Unsupported, UsageError
from toolchain.model import load

F = TensorProto.FLOAT


def sound(opset: int = 20) -> onnx.ModelProto:
    """x [N, 4] -> Gemm 'a' -> Relu 'b' -> Gemm 'c', weights 'W' and 'V'."""
    nodes = [
        helper.make_node("Gemm", ["x", "W"], ["h"], name="a"),
        helper.make_node("Relu", ["h"], ["r"], name="b"),
        helper.make_node("Gemm", ["r", "V"], ["y"], name="c"),
    ]
    weights = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", F, ["N", 4])],
        [helper.make_tensor_value_info("y", F, ["N", 4])],
        [numpy_helper.from_array(weights, "W"), numpy_helper.from_array(weights.T.copy(), "V")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def refused(path: Path, kind: type[JettisonError], *parts: str) -> str:
    """The message of a refusal: one line with these parts, and the exit code of its kind."""
    with pytest.raises(JettisonError) as caught:
        load(path)
    text = str(caught.value)
    assert isinstance(caught.value, kind), text
    assert "\n" not in text and all(p in text for p in parts), text
    return text


def written(folder: Path, content: bytes | onnx.ModelProto, name: str = "net.onnx") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return path


def changed(edit: Callable[[onnx.ModelProto], object], opset: int = 20) -> onnx.ModelProto:
    proto = sound(opset)
    edit(proto)
    return proto


def test_the_sound_file_of_these_tests_is_read(tmp_path: Path) -> None:
    for opset in (8, 13, 20, 26):
        assert load(written(tmp_path, sound(opset))).inputs == {"x": (4,)}


# ---- no model at all -----------------------------------------------------------------------------------------------
def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    refused(tmp_path / "none.onnx", BadInput, "no such file")
    refused(tmp_path, BadInput, "is a folder, an ONNX file is needed")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", BadInput, "is not an ordinary file")
    refused(tmp_path / ("n" * 300), BadInput)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(tmp_path / "loop", BadInput)
    refused(tmp_path / "none.onnx" / "under.onnx", BadInput)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    written(tmp_path, sound()).chmod(0)
    refused(tmp_path / "net.onnx", BadInput, "permission denied")


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "looks"),
    [
        (b"", "the file is empty"),
        (b"\x1c\x00\x00\x00TFL3" + b"\0" * 40, "it looks like a TFLite file"),
        (zipped(), "a zip archive (perhaps a .pt file"),
        (pickle.dumps({"w": [1, 2]}, protocol=2), "pickle"),
        (pickle.dumps({"w": [1, 2]}), "not an ONNX model"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 40, "an HDF5 file"),
        (b"<html><body>404</body></html>", "it looks like text"),
        (b'{"format": "json"}', "it looks like JSON text"),
        (b"hello, world\n" * 9, "not an ONNX model"),
        (b"\0" * 100, "not an ONNX model"),
        (b"\xff" * 100, "not an ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n", "not an ONNX model"),
    ],
    ids=lambda v: repr(v)[:24],
)
def test_what_is_no_model_is_told_what_it_looks_like(content: bytes, looks: str, tmp_path: Path) -> None:
    refused(written(tmp_path, content), BadInput, "not an ONNX model", looks)


def test_random_bytes_are_no_model(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    for n in range(120):
        refused(written(tmp_path, generator.bytes(n + 1)), BadInput, "not an ONNX model")


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    """Only the fields behind the graph and the opset may be missing without harm."""
    whole = sound().SerializeToString()
    for n in range(len(whole)):
        path = written(tmp_path, whole[:n])
        try:
            load(path)
        except BadInput as error:
            assert "\n" not in str(error)
        else:
            assert whole[:n] == whole, "a part was taken for the whole"


@pytest.mark.parametrize("opset", [12, 20])
def test_a_flipped_bit_is_read_or_refused_but_never_a_crash(opset: int, tmp_path: Path) -> None:
    whole = {20: [sound(), original("alexnet"), original("excitation")], 12: [sound(12)]}[opset]
    generator = np.random.default_rng(2)
    for proto in whole:
        raw = proto.SerializeToString()
        light = [i for i in range(len(raw)) if i < 900 or i > len(raw) - 2500]  # names and shapes, not weights
        for _ in range(160):
            noisy = bytearray(raw)
            noisy[light[generator.integers(len(light))]] ^= 1 << int(generator.integers(8))
            try:
                load(written(tmp_path, bytes(noisy)))
            except JettisonError as error:
                assert "\n" not in str(error)


# ---- tensors -------------------------------------------------------------------------------------------------------
def weight(proto: onnx.ModelProto) -> TensorProto:
    return proto.graph.initializer[0]


def as_constant(edit: Callable[[TensorProto], object]) -> onnx.ModelProto:
    """The weight W made by a Constant node, its tensor edited."""
    proto = sound()
    tensor = TensorProto.FromString(weight(proto).SerializeToString())
    edit(tensor)
    del proto.graph.initializer[0]
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["W"], name="made"))
    attribute = proto.graph.node[0].attribute.add()
    attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
    attribute.t.CopyFrom(tensor)
    return proto


def in_branch(edit: Callable[[TensorProto], object]) -> onnx.ModelProto:
    """A tensor inside both branches of an If."""
    proto = sound()
    tensor = numpy_helper.from_array(np.ones(12, np.float32), "inner")
    edit(tensor)
    add = [helper.make_node("Add", ["y0", "inner"], ["z"])]
    branch = helper.make_graph(add, "branch", [], [helper.make_tensor_value_info("z", F, None)], [tensor])
    proto.graph.node[2].output[0] = "y0"
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    proto.graph.node.append(helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch))
    return proto


PLACES: dict[str, Callable[[Callable[[TensorProto], object]], onnx.ModelProto]] = {
    "initializer": lambda edit: changed(lambda p: edit(weight(p))),
    "constant": as_constant,
    "branch": in_branch,
}


def raw(content: bytes, *dims: int, kind: int = F) -> Callable[[TensorProto], None]:
    def edit(t: TensorProto) -> None:
        t.ClearField("float_data")
        t.raw_data, t.data_type = content, kind
        t.dims[:] = dims

    return edit


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (raw(b"\0" * 47, 4, 3), "declares 48 bytes but stores 47"),
        (raw(b"\0" * 48, 4, 4), "declares 64 bytes but stores 48"),
        (raw(b"\0" * 48, 100_000, 300_000), "declares 111.8 GiB but stores 48 bytes"),
        (raw(b"\0" * 48, 1 << 62, 4), "but stores 48 bytes"),
        (raw(b"\0" * 48, 4, -3), "has a negative dimension [4, -3]"),
        (raw(b"\0" * 48, -4, -3), "has a negative dimension [-4, -3]"),
        (raw(b"\0" * 48, 4, 3, kind=77), "has the unknown data type 77"),
        (raw(b"\0" * 48, 4, 3, kind=0), "has the unknown data type 0"),
        (raw(b"", 4, 3), "declares 48 bytes but stores 0"),
    ],
    ids=["short", "long", "huge", "overflowing", "negative", "twice negative", "dtype 77", "dtype 0", "empty"],
)
def test_a_tensor_that_does_not_hold_what_it_declares_is_named(
    place: str, edit: Callable[[TensorProto], None], message: str, tmp_path: Path
) -> None:
    refused(written(tmp_path, PLACES[place](edit)), BadInput, "tensor '", message)


@pytest.mark.parametrize("place", PLACES)
def test_typed_data_that_does_not_fill_its_shape_is_named(place: str, tmp_path: Path) -> None:
    def floats(t: TensorProto) -> None:
        t.ClearField("raw_data")
        t.float_data.extend([1.0] * 11)
        t.dims[:] = [4, 3]

    def whole(t: TensorProto) -> None:
        t.ClearField("raw_data")
        t.data_type = TensorProto.INT64
        t.int64_data.extend([1, 2])
        t.dims[:] = [3]

    for edit in (floats, whole):
        refused(written(tmp_path, PLACES[place](edit)), BadInput, "tensor '")


@pytest.mark.parametrize("place", ["initializer", "constant"])
@pytest.mark.parametrize(
    ("bad", "message"),
    [(np.nan, "has 1 NaN (first at [2, 1])"), (np.inf, "has 1 infinity (first at [2, 1])"), (-np.inf, "infinity")],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_weights_that_are_no_numbers_are_named(
    place: str, bad: float, message: str, dtype: Any, tmp_path: Path
) -> None:
    array = np.ones((4, 3), dtype)
    array[2, 1] = bad
    edit = raw(array.tobytes(), 4, 3, kind=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    refused(written(tmp_path, PLACES[place](edit)), BadInput, "tensor 'W'", message)


def test_large_weights_are_not_taken_for_infinite_ones(tmp_path: Path) -> None:
    array = np.full((4, 3), 3e38, np.float32)
    load(written(tmp_path, PLACES["initializer"](raw(array.tobytes(), 4, 3))))


# ---- external data -------------------------------------------------------------------------------------------------
def external(**where: object) -> Callable[[TensorProto], None]:
    def edit(t: TensorProto) -> None:
        t.ClearField("raw_data")
        t.data_location = TensorProto.EXTERNAL
        for key, value in where.items():
            t.external_data.add(key=key, value=str(value))

    return edit


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A model's folder with w.bin of 48 bytes, and a secret beside it."""
    folder = tmp_path / "home"
    folder.mkdir()
    array = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    (folder / "w.bin").write_bytes(array.tobytes())
    (folder / "sub").mkdir()
    (folder / "sub" / "v.bin").write_bytes(b"pad!" + array.tobytes())
    (tmp_path / "secret.bin").write_bytes(array.tobytes())
    return folder


@pytest.mark.parametrize("where", [{"location": "w.bin"}, {"location": "sub/v.bin", "offset": 4, "length": 48}])
def test_data_in_the_folder_of_the_model_is_read(where: dict[str, Any], home: Path) -> None:
    path = written(home, PLACES["initializer"](external(**where)))
    array = load(path).graph.initializers["W"].const_value.numpy()
    assert array.tobytes() == weight(sound()).raw_data


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"location": "../secret.bin"}, "its data path leaves the model's folder; refused"),
        ({"location": "sub/../../secret.bin"}, "its data path leaves the model's folder; refused"),
        ({"location": "/etc/hostname"}, "its data path leaves the model's folder; refused"),
        ({"location": ""}, "its data path leaves the model's folder; refused"),
        ({}, "its data path leaves the model's folder; refused"),
        ({"location": "link.bin"}, "its data path leaves the model's folder; refused"),
        ({"location": "linked/secret.bin"}, "its data path leaves the model's folder; refused"),
        ({"location": "hard.bin"}, "is no ordinary file"),
        ({"location": "pipe"}, "is no ordinary file"),
        ({"location": "sub"}, "is no ordinary file"),
        ({"location": "none.bin"}, "its data file none.bin is missing"),
        ({"location": "w.bin", "offset": 1000000}, "is past the end of w.bin (48 bytes)"),
        ({"location": "w.bin", "offset": -4}, "its data offset or length is negative"),
        ({"location": "w.bin", "length": -4}, "its data offset or length is negative"),
        ({"location": "w.bin", "length": 44}, "declares 48 bytes but stores 44"),
        ({"location": "w.bin", "length": 52}, "past the end"),
        ({"location": "w.bin", "offset": "four"}, "its data offset or length is no number"),
        ({"location": "w.bin", "offset": "1e3"}, "its data offset or length is no number"),
        ({"location": "w\0.bin"}, "refused"),
        ({"location": "w" * 300}, "its data file cannot be read: File name too long"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_data_outside_of_the_folder_or_the_file_is_refused(
    place: str, where: dict[str, Any], message: str, home: Path
) -> None:
    (home / "link.bin").symlink_to(home.parent / "secret.bin")
    (home / "linked").symlink_to(home.parent)
    os.link(home.parent / "secret.bin", home / "hard.bin")
    os.mkfifo(home / "pipe")
    refused(written(home, PLACES[place](external(**where))), BadInput, "tensor '", message)


# ---- graphs --------------------------------------------------------------------------------------------------------
def rewire(node: int, end: str, index: int, name: str) -> Callable[[onnx.ModelProto], None]:
    def edit(p: onnx.ModelProto) -> None:
        getattr(p.graph.node[node], end)[index] = name

    return edit


def add_weight(name: str) -> Callable[[onnx.ModelProto], None]:
    return lambda p: p.graph.initializer.append(numpy_helper.from_array(np.ones((4, 3), np.float32), name))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (rewire(0, "input", 0, "r"), "the graph has a cycle through 'b' → 'a'"),
        (rewire(1, "input", 0, "r"), "the graph has a cycle through 'b'"),
        (rewire(1, "input", 0, "nobody"), "Relu 'b' reads 'nobody', which nothing makes"),
        (rewire(1, "output", 0, "h"), "value 'h' is made twice"),
        (rewire(1, "output", 0, "x"), "value 'x' is made twice"),
        (rewire(1, "output", 0, "W"), "value 'W' is made twice"),
        (lambda p: p.graph.node[0].output.append("h"), "value 'h' is made twice"),
        (add_weight("W"), "'W' is made twice"),
        (lambda p: p.graph.input.append(p.graph.input[0]), "'x' is made twice"),
        (rewire(2, "output", 0, "z"), "output 'y' is never made"),
        (lambda p: p.graph.ClearField("output"), "the graph has no output"),
        (lambda p: p.graph.ClearField("node"), "output 'y' is never made"),
        (rewire(0, "input", 1, "V"), "Gemm 'a'"),  # [N, 4] x [3, 4]
        (lambda p: p.graph.node[1].ClearField("input"), "Relu 'b'"),
        (lambda p: p.graph.node[1].ClearField("output"), "Relu 'b' makes nothing"),
        (lambda p: p.ClearField("opset_import"), "opset"),
        (lambda p: p.ClearField("graph"), "it has no graph"),
    ],
    ids=lambda v: v if isinstance(v, str) else "edit",
)
def test_an_unsound_graph_is_refused_by_name(edit: Any, message: str, tmp_path: Path) -> None:
    refused(written(tmp_path, changed(edit)), BadInput, message)


@pytest.mark.parametrize("name", ["h", "W", "x"])
def test_names_that_could_be_code_are_escaped(name: str, tmp_path: Path) -> None:
    evil = "\x1b[31m\n<script>../../../\x00"
    proto = changed(rewire(1, "input", 0, evil))
    text = refused(written(tmp_path, proto), BadInput, "<script>")
    assert text.isprintable()


def test_unsorted_nodes_are_sorted(tmp_path: Path) -> None:
    proto = original("residual")
    turned = onnx.ModelProto.FromString(proto.SerializeToString())
    nodes = list(turned.graph.node)[::-1]
    del turned.graph.node[:]
    turned.graph.node.extend(nodes)
    first, second = load(written(tmp_path, proto)), load(written(tmp_path, turned, "turned.onnx"))
    x = np.random.default_rng(0).standard_normal((2, 3, 10, 10)).astype(np.float32)
    from toolchain.session import run, session

    np.testing.assert_array_equal(run(session(first.ir), {"x": x})[0], run(session(second.ir), {"x": x})[0])


@pytest.mark.parametrize("turned", [False, True])
def test_a_chain_of_20000_nodes_is_read(turned: bool, tmp_path: Path) -> None:
    n = 20_000
    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(n)]
    graph = helper.make_graph(
        nodes[::-1] if turned else nodes,
        "chain",
        [helper.make_tensor_value_info("v0", F, ["N", 2])],
        [helper.make_tensor_value_info(f"v{n}", F, ["N", 2])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    assert len(load(written(tmp_path, proto)).graph) == n


def with_sparse(proto: onnx.ModelProto) -> None:
    values, places = numpy_helper.from_array(np.ones(1, np.float32), "S"), numpy_helper.from_array(np.array([0]))
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [3]))


def unasked(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].device_configurations.add(configuration_id="none")


def extended(*nodes: onnx.NodeProto, domain: str = "") -> onnx.ModelProto:
    """The sound file with nodes between 'r' and 's', read in place of 'r'."""
    proto = sound()
    proto.graph.node[2].input[0] = "s"
    for i, node in enumerate(nodes):
        proto.graph.node.insert(2 + i, node)
    if domain:
        proto.opset_import.append(helper.make_opsetid(domain, 1))
    return proto


def branch(inner: onnx.NodeProto, made: str) -> onnx.GraphProto:
    return helper.make_graph([inner], "branch", [], [helper.make_tensor_value_info(made, F, None)])


def referring(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].attribute.append(
        onnx.AttributeProto(name="transB", ref_attr_name="turned", type=onnx.AttributeProto.INT)
    )


def choosing(made: str, reads: str = "r") -> onnx.NodeProto:
    inside = branch(helper.make_node("Relu", [reads], ["t"]), made)
    return helper.make_node("If", ["r"], ["s"], then_branch=inside, else_branch=inside)


def narrow() -> onnx.ModelProto:
    """A window of 2^31 - 1 positions over 5, which onnx's inference counts as -2^31 + 5 places."""
    net = Net(1, x=(4, 5, 5))
    net.head(net.pooled(net.relu(net.conv("x", 12))))
    proto = net.proto()
    proto.graph.node[0].attribute.append(helper.make_attribute("kernel_shape", [3, 2**31 - 1]))
    return proto


@pytest.mark.parametrize(
    ("proto", "kind", "message"),
    [
        (changed(lambda p: p.graph.node[1].ClearField("output")), BadInput, "Relu 'b' makes nothing"),
        (changed(with_sparse), Unsupported, "tensor 'S' is sparse"),
        (
            changed(lambda p: p.graph.initializer.add(name="T", data_type=TensorProto.STRING, dims=[3])),
            BadInput,
            "tensor 'T': declares 3 texts but stores 0",
        ),
        (
            changed(lambda p: setattr(p.graph.node[1], "domain", "mars")),
            BadInput,
            "Relu 'b': is of the domain 'mars', which has no opset",
        ),
        (
            changed(lambda p: p.metadata_props.add(key="k", value="~~~~")).SerializeToString().replace(b"~~", b"\xe3~"),
            BadInput,
            "no text",
        ),
        (
            changed(lambda p: p.graph.node[0].attribute.append(helper.make_attribute("transB", 1.5))),
            BadInput,
            "attribute 'transB' of Gemm 'a' is of kind FLOAT, not INT",
        ),
        (changed(referring), BadInput, "attribute 'transB' of Gemm 'a' is that of a function, and it stands in none"),
        (extended(choosing("nobody")), BadInput, "output 'nobody' of the branch 'branch' is never made in it"),
        (
            extended(choosing("t", reads="t")),
            BadInput,
            "Relu '' in the branch 'branch' reads 't' before it is made",
        ),
        (narrow(), BadInput, "makes a value with an axis of"),
    ],
    ids=["no outputs", "sparse", "texts", "domain", "metadata", "kind", "reference", "unmade", "early", "narrow"],
)  # fmt: skip
def test_what_only_a_mutant_says_is_refused_by_name(
    proto: onnx.ModelProto | bytes, kind: type[JettisonError], message: str, tmp_path: Path
) -> None:
    refused(written(tmp_path, proto), kind, message)


def test_devices_that_a_node_once_ran_on_do_not_count(tmp_path: Path) -> None:
    assert load(written(tmp_path, changed(unasked))).to_bytes() == load(written(tmp_path, sound())).to_bytes()


def test_a_parameter_has_the_shape_of_its_numbers(tmp_path: Path) -> None:
    """Even if the file lists it as an input of another shape, or of none."""
    proto = changed(lambda p: p.graph.input.append(helper.make_tensor_value_info("W", F, None)))
    model = load(written(tmp_path, proto))
    assert model.graph.initializers["W"].shape == (4, 3)


# ---- versions, domains, control flow -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("opset", "message"), [(99, "opset 99 is newer than 26"), (5, "opset 5 is older than 7"), (6, "older than 7")]
)
def test_an_opset_out_of_range_is_unsupported(opset: int, message: str, tmp_path: Path) -> None:
    refused(written(tmp_path, sound(opset)), Unsupported, message, "Re-export")


def test_an_ir_version_that_nobody_knows_is_unsupported(tmp_path: Path) -> None:
    proto = sound()
    proto.ir_version = 99
    refused(written(tmp_path, proto), Unsupported, "IR version 99 is newer than")


def test_a_custom_op_is_read_and_protects(tmp_path: Path) -> None:
    from toolchain.compress.groups import analyse

    proto = extended(helper.make_node("Mystery", ["r"], ["s"], name="m", domain="com.acme"), domain="com.acme")
    model = load(written(tmp_path, proto))
    channels = analyse(model)
    assert not channels.groups and channels.why("W", 1) == "Mystery 'm' has no channel rule"


def test_an_unknown_standard_op_is_read_and_protects(tmp_path: Path) -> None:
    from toolchain.compress.groups import analyse

    model = load(written(tmp_path, extended(helper.make_node("Relux", ["r"], ["s"], name="m"))))
    assert analyse(model).why("W", 1) == "Relux 'm' has no channel rule"


def test_what_comes_after_a_custom_op_has_no_shape_and_is_protected(tmp_path: Path) -> None:
    """A reduction, which has to know how many axes there are."""
    from toolchain.compress.groups import analyse

    proto = extended(helper.make_node("Relux", ["r"], ["q"]), helper.make_node("ReduceL1", ["q"], ["s"], name="sum"))
    channels = analyse(load(written(tmp_path, proto)))
    assert not channels.groups and channels.why("V", 0) is not None


def test_a_slice_whose_axes_are_no_list_is_refused(tmp_path: Path) -> None:
    proto = extended(helper.make_node("Slice", ["r", "from", "to", "axis"], ["s"], name="bad"))
    for name, value in (("from", [0]), ("to", [3]), ("axis", 1)):
        proto.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    refused(written(tmp_path, proto), BadInput, "Slice 'bad'")


@pytest.mark.parametrize("equation", ["nij,ik-\x1e,jb", "n1,1k", "ij->i->j"])
def test_an_einsum_of_no_equation_is_refused(equation: str, tmp_path: Path) -> None:
    """Over the first, which a flipped bit left, onnx's inference never ends."""
    node = helper.make_node("Einsum", ["r", "V"], ["s"], name="bad", equation=equation)
    refused(written(tmp_path, extended(node)), BadInput, "of Einsum 'bad' is no equation")


def calling(made: str, opset: int = 20) -> onnx.ModelProto:
    """A network whose function makes a value of this name, and is said to make 'b'."""
    proto = extended(helper.make_node("Bent", ["r"], ["s"], domain="own"), domain="own")
    body, opsets = [helper.make_node("Relu", ["a"], [made])], [helper.make_opsetid("", opset)]
    proto.functions.append(helper.make_function("own", "Bent", ["a"], ["b"], body, opsets))
    return proto


def test_a_function_that_does_not_make_what_it_is_called_for_is_refused(tmp_path: Path) -> None:
    refused(written(tmp_path, calling("q")), BadInput, "reads 's', which nothing makes")


def test_a_function_of_an_opset_that_nobody_knows_stays_a_call(tmp_path: Path) -> None:
    assert [n.op_type for n in load(written(tmp_path, calling("b", 1 << 40))).graph] == ["Gemm", "Relu", "Bent", "Gemm"]
    assert [n.op_type for n in load(written(tmp_path, calling("b"))).graph] == ["Gemm", "Relu", "Relu", "Gemm"]


def test_a_cast_to_no_type_is_refused(tmp_path: Path) -> None:
    refused(written(tmp_path, extended(helper.make_node("Cast", ["r"], ["s"], name="c", to=0))), BadInput, "Cast 'c'")


def nested(depth: int) -> onnx.NodeProto:
    """An If in an If in an If …, each branch a Relu of 'r' at the bottom."""
    node = helper.make_node("Relu", ["r"], ["deepest"])
    for i in range(depth):
        inner = branch(node, node.output[0])
        node = helper.make_node("If", ["yes"], [f"if{i}"], name=f"if{i}", then_branch=inner, else_branch=inner)
    node.output[0] = "s"
    return node


@pytest.mark.parametrize("depth", [1, 3])
def test_control_flow_is_read_and_protects(depth: int, tmp_path: Path) -> None:
    from toolchain.compress.groups import analyse

    proto = extended(nested(depth))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model = load(written(tmp_path, proto))
    reason = analyse(model).why("W", 1)
    assert reason is not None and "If" in reason


def test_branches_nested_too_deep_are_refused(tmp_path: Path) -> None:
    """2 branches of 2 branches of … would be 2^30 graphs: a chain in one branch each is written by hand."""
    inner = helper.make_node("Relu", ["r"], ["deepest"])
    for i in range(30):
        inner = helper.make_node("If", ["yes"], [f"if{i}"], then_branch=branch(inner, inner.output[0]))
    inner.output[0] = "s"
    proto = extended(inner)
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    refused(written(tmp_path, proto), BadInput)


# ---- inputs --------------------------------------------------------------------------------------------------------
def with_input(info: onnx.ValueInfoProto) -> onnx.ModelProto:
    return changed(lambda p: p.graph.input[0].CopyFrom(info))


@pytest.mark.parametrize(
    ("info", "kind", "message"),
    [
        (helper.make_tensor_value_info("x", TensorProto.STRING, ["N", 4]), JettisonError, "'x' is a string tensor"),
        (helper.make_tensor_sequence_value_info("x", F, ["N", 4]), JettisonError, "'x' is a sequence"),
        (
            helper.make_value_info("x", helper.make_optional_type_proto(helper.make_tensor_type_proto(F, ["N", 4]))),
            JettisonError,
            "'x' is an optional",
        ),
        (helper.make_sparse_tensor_value_info("x", F, ["N", 4]), JettisonError, "'x' is a sparse tensor"),
        (onnx.ValueInfoProto(name="x"), JettisonError, "'x'"),
        (helper.make_tensor_value_info("x", F, None), UsageError, "input 'x' has no shape. Give --shape x:1,"),
        (helper.make_tensor_value_info("x", F, ["N", "M"]), UsageError, "input 'x' is (?, ?). Give --shape x:1,"),
        (helper.make_tensor_value_info("x", F, ["N", 0]), UsageError, "input 'x' is (?, ?)"),
        (helper.make_tensor_value_info("x", F, [2, None]), UsageError, "input 'x' is (2, ?)"),
    ],
    ids=["string", "sequence", "optional", "sparse", "untyped", "no rank", "open width", "no width", "fixed batch"],
)
def test_an_input_that_cannot_be_fed_is_told(info: Any, kind: Any, message: str, tmp_path: Path) -> None:
    refused(written(tmp_path, with_input(info)), kind, message)


@pytest.mark.parametrize("shape", [(1, 1 << 70), (1, 1 << 40)])
def test_an_input_that_no_memory_holds_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = written(tmp_path, with_input(helper.make_tensor_value_info("x", F, ["N", "M"])))
    with pytest.raises(BadInput, match="input 'x' takes"):
        load(path, {"x": shape})


def test_a_shape_of_no_input_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no input 'z' to give a shape\. There are 'x'"):
        load(written(tmp_path, sound()), {"z": (1, 4)})


def test_an_open_shape_may_be_given(tmp_path: Path) -> None:
    path = written(tmp_path, with_input(helper.make_tensor_value_info("x", F, ["N", "M"])))
    assert load(path, {"x": (1, 4)}).inputs == {"x": (4,)}
    for shape in ((1, 5), (4,), (1, 2, 2)):
        with pytest.raises(JettisonError) as caught:
            load(path, {"x": shape})
        assert "\n" not in str(caught.value)


# ---- bombs ---------------------------------------------------------------------------------------------------------
def bomb(*nodes: onnx.NodeProto, **constants: np.ndarray) -> onnx.ModelProto:
    """A constant that grows when it is folded, added to 'r'."""
    proto = extended(*nodes, helper.make_node("Add", ["r", "c"], ["s"], name="add"))
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in constants.items())
    return proto


ONES = np.ones(2, np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    "proto",
    [
        bomb(helper.make_node("ConstantOfShape", ["s0"], ["c"], name="bomb"), s0=ints(1 << 20, 1 << 20)),
        bomb(helper.make_node("Expand", ["one", "s0"], ["c"], name="bomb"), one=ONES, s0=ints(1 << 40, 2)),
        bomb(helper.make_node("Tile", ["one", "s0"], ["c"], name="bomb"), one=ONES, s0=ints(1 << 35)),
        bomb(
            helper.make_node("Range", ["zero", "many", "step"], ["c"], name="bomb"),
            zero=np.array(0, np.int64), many=np.array(1 << 40, np.int64), step=np.array(1, np.int64),
        ),
        bomb(
            *(helper.make_node("Concat", [f"c{i}"] * 8, [f"c{i + 1}"], axis=i % 2, name="bomb") for i in range(12)),
            helper.make_node("Identity", ["c12"], ["c"]),
            c0=np.ones((4, 4), np.float32),
        ),
        bomb(
            *(helper.make_node("ConstantOfShape", ["s0"], [f"c{i}"], name="bomb") for i in range(40)),
            helper.make_node("Sum", [f"c{i}" for i in range(40)], ["c"]),
            s0=ints(1 << 12, 1 << 13),
        ),
    ],
    ids=["ConstantOfShape", "Expand", "Tile", "Range", "doubling", "many"],
)  # fmt: skip
def test_a_constant_that_would_fill_the_memory_is_refused(proto: onnx.ModelProto, tmp_path: Path) -> None:
    refused(written(tmp_path, proto), BadInput, "bomb", "limit 67,108,864")


@pytest.mark.parametrize(
    "proto",
    [
        bomb(helper.make_node("Gather", ["one", "far"], ["c"], name="bad"), one=ONES, far=ints(7)),
        bomb(helper.make_node("Reshape", ["one", "far"], ["c"], name="bad"), one=ONES, far=ints(7)),
        bomb(
            helper.make_node("Reshape", ["one", "far"], ["c"], name="bad"), one=np.ones(6, np.float32), far=ints(-1, 4)
        ),
        bomb(helper.make_node("Slice", ["one"], ["c"], name="bad"), one=ONES),
        bomb(
            helper.make_node("Concat", ["one", "two"], ["c"], axis=3, name="bad"),
            one=ONES,
            two=ONES,
        ),
        bomb(helper.make_node("Transpose", ["one"], ["c"], perm=[0, 0], name="bad"), one=np.ones((2, 2), np.float32)),
        bomb(helper.make_node("Cast", ["one"], ["c"], to=99, name="bad"), one=np.ones((2, 2), np.float32)),
    ],
    ids=["Gather", "Reshape", "Reshape with rest", "Slice", "Concat", "Transpose", "Cast"],
)
def test_a_constant_that_cannot_be_computed_is_refused_by_name(proto: onnx.ModelProto, tmp_path: Path) -> None:
    refused(written(tmp_path, proto), BadInput, "'bad'")


@pytest.mark.parametrize("group", [0, 3, 5])
def test_a_group_that_does_not_divide_the_channels_is_refused(group: int, tmp_path: Path) -> None:
    """onnx's inference lets it pass; onnxruntime fails when it runs."""
    from toolchain.compress.groups import analyse

    net = Net(1, x=(4, 5, 5))
    net.head(net.pooled(net.relu(net.conv("x", 12, 1))))
    proto = net.proto()
    next(a for a in proto.graph.node[0].attribute if a.name == "group").i = group
    with pytest.raises(BadInput, match=r"Conv 'conv0'"):
        analyse(load(written(tmp_path, proto)))


def test_an_axis_that_no_memory_holds_is_refused(tmp_path: Path) -> None:
    proto = extended(helper.make_node("Reshape", ["r", "far"], ["s"], name="wide"))
    proto.graph.initializer.append(numpy_helper.from_array(ints(1, 1 << 55), "far"))
    refused(written(tmp_path, proto), BadInput, "Reshape 'wide'")
    info = helper.make_tensor_value_info("x", F, ["N", 1 << 55])
    refused(written(tmp_path, with_input(info)), BadInput)


def test_every_network_of_the_tests_is_sound(tmp_path: Path) -> None:
    assert all(load(written(tmp_path, original(name))) for name in NETWORKS)
    assert Net is not None
