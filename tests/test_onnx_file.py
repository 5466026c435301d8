"""Above 2 GiB large parameters lie in a file beside the model, and everyone reads them there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from compress.networks import network

from toolchain import onnx_file
from toolchain.errors import BadInput, UsageError
from toolchain.model import load, save


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is large from 4 KiB of parameters on."""
    monkeypatch.setattr(onnx_file, "LARGEST", 4096)
    monkeypatch.setattr(onnx_file, "SMALL", 64)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["alexnet", "residual", "dense_block"])
def test_a_large_model_reads_back_the_same_from_two_files(name: str, tmp_path: Path) -> None:
    model = network(name)
    save(model, tmp_path / "a.onnx")
    assert {p.name for p in tmp_path.iterdir()} == {"a.onnx", "a.onnx.data"}
    assert load(tmp_path / "a.onnx").to_bytes() == model.to_bytes()
    onnx.checker.check_model(str(tmp_path / "a.onnx"), full_check=True)
    ort.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "a.onnx").graph.initializer}
    for key, value in model.graph.initializers.items():
        assert value.const_value is not None
        assert np.array_equal(stored[key], value.const_value.numpy())


@pytest.mark.usefixtures("small")
def test_parameters_outside_start_at_a_page(tmp_path: Path) -> None:
    save(network("alexnet"), tmp_path / "a.onnx")
    proto = onnx.load(tmp_path / "a.onnx", load_external_data=False)
    told = [{e.key: e.value for e in t.external_data} for t in proto.graph.initializer if t.external_data]
    assert told
    assert all(int(t["offset"]) % 4096 == 0 and t["location"] == "a.onnx.data" for t in told)


@pytest.mark.usefixtures("small")
def test_both_files_have_the_permissions_of_ordinary_ones(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        save(network("alexnet"), tmp_path / "a.onnx")
    finally:
        os.umask(old)
    assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o640}


@pytest.mark.usefixtures("small")
def test_a_file_of_weights_that_is_there_is_kept_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "a.onnx.data").write_bytes(b"precious")
    with pytest.raises(UsageError, match=r"a\.onnx\.data exists"):
        save(network("alexnet"), tmp_path / "a.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx.data"]


@pytest.mark.usefixtures("small")
def test_a_disk_that_fills_up_leaves_no_model_without_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match="No space left"):
        save(network("alexnet"), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_model_above_2_gib_is_written_and_read(tmp_path: Path) -> None:
    if os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize < 3 << 30:
        pytest.skip("needs 3 GiB of disk")
    model = network("mlp")
    changed = model.ir.clone()
    last = list(changed.graph)[-1]
    size = (1 << 29) + (1 << 20)  # of float32: 2 GiB and 4 MiB
    large = ir.Value(name="large", shape=ir.Shape([size]), type=ir.TensorType(ir.DataType.FLOAT))
    large.const_value = ir.tensor(np.zeros(size, np.float32), name="large")
    changed.graph.initializers["large"] = large
    end = ir.Value(name="sum")
    changed.graph.append(ir.node("ReduceMax", [large], {"keepdims": 0}, outputs=[end]))
    y = ir.Value(name="shifted", type=last.outputs[0].type, shape=last.outputs[0].shape)
    changed.graph.append(ir.node("Add", [last.outputs[0], end], outputs=[y]))
    changed.graph.outputs[0] = y
    save(model.with_ir(changed), tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").stat().st_size < 1 << 20
    assert (tmp_path / "a.onnx.data").stat().st_size >= 4 * size
    ort.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
