"""Laws of measuring over SSH: what counts was pushed whole and answered as here; no failure leaves anything there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from boards import Loopback, loopback
from test_agent import add_model, dense_model
from test_measure import DYING, RUNNING, relu_tflite

from targets.address import Address
from targets.measure import Measurement, RunnerError, measure
from targets.ssh import measure_over_ssh

__all__ = ["relu_tflite"]


def over_ssh(address: Address, *pairs: tuple[Path, str], **options: Any) -> list[Measurement]:
    """A short measurement of each model."""
    return measure_over_ssh(pairs, address, **{"target": "board", "runs": 2, "warmup": 0, "rounds": 1, **options})


def told(address: Address, *pairs: tuple[Path, str], **options: Any) -> str:
    """What measuring raises, held to be one line."""
    with pytest.raises(RunnerError) as caught:
        over_ssh(address, *pairs, **options)
    assert str(caught.value).isprintable()
    return str(caught.value)


def with_runtime(board: Loopback, source: str) -> Address:
    """The board with `source` as LiteRT's interpreter module there, and only there."""
    package = board.home / f"fake{len(list(board.home.iterdir()))}" / "ai_edge_litert"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "interpreter.py").write_text(source)
    return board.wrapped(f"{package.parent.name}.sh", f'PYTHONPATH={package.parent}:"$PYTHONPATH" exec $PYTHON "$@"')


def test_a_model_answers_on_the_board_as_here(board: Loopback, tmp_path: Path) -> None:
    model = dense_model(tmp_path / "dense.onnx", 16)
    (found,) = over_ssh(board.address, (model, "ort"), runs=7, warmup=2)
    assert (found.model, found.target, found.grade) == (str(model), "board", "measured")
    assert (found.runs, found.warmup, found.threads, found.runtime) == (7, 2, 1, "ort")
    assert found.model_sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    assert found.output_hash == measure(model, "ort", runs=1, warmup=0).output_hash
    assert found.output_difference == 0.0
    assert found.host.pinned_core is not None


def test_several_models_take_turns_and_are_told_apart_by_folder(board: Loopback, tmp_path: Path) -> None:
    models = []
    for width in (4, 8):
        (tmp_path / str(width)).mkdir()
        models.append((dense_model(tmp_path / str(width) / "same.onnx", width), "ort"))
    found = over_ssh(board.address, *models, runs=6, rounds=3)
    assert [m.input_shapes["x"] for m in found] == [(1, 4), (1, 8)]
    assert [(m.runs, len(m.round_p50_ns)) for m in found] == [(6, 3), (6, 3)]


def test_given_inputs_are_pushed(board: Loopback, tmp_path: Path) -> None:
    values = np.random.default_rng(3).standard_normal((5, 3)).astype(np.float32)
    np.savez(tmp_path / "inputs.npz", x=values)
    model = add_model(tmp_path / "twice.onnx")
    (found,) = over_ssh(board.address, (model, "ort"), inputs=tmp_path / "inputs.npz")
    assert found.input_shapes == {"x": (5, 3)}
    answer = values + values
    wanted = hashlib.sha256(f"{answer.dtype.str}{answer.shape}".encode() + answer.tobytes()).hexdigest()
    assert found.output_hash == wanted


def test_external_data_travels_with_its_model(board: Loopback, tmp_path: Path) -> None:
    proto = onnx.load(dense_model(tmp_path / "dense.onnx", 32))
    name = "w" * 140 + ".data"  # its length takes two bytes in the file
    onnx.save(proto, tmp_path / "outside.onnx", save_as_external_data=True, location=name, size_threshold=0)
    (found,) = over_ssh(board.address, (tmp_path / "outside.onnx", "ort"))
    assert found.output_difference == 0.0


@pytest.mark.parametrize("name", ["a b.onnx", "-rf.onnx", "$(touch x).onnx", "line\nline.onnx", "größe'\".onnx"])
def test_any_file_name_works(name: str, board: Loopback, tmp_path: Path) -> None:
    (found,) = over_ssh(board.address, (add_model(tmp_path / name), "ort"))
    assert found.model == str(tmp_path / name)


def test_a_missing_file_is_told_before_anybody_is_asked(tmp_path: Path) -> None:
    nowhere, model, missing = Address("nowhere.invalid"), add_model(tmp_path / "m.onnx"), tmp_path / "no.onnx"
    assert told(nowhere, (missing, "ort")) == f"{missing}: no such file"
    assert told(nowhere, (model, "ort"), inputs=missing) == f"{missing}: no such file"


# ---- the Python there -----------------------------------------------------------------------------------------------


def test_a_board_without_python_is_told_how_to_name_one(board: Loopback, tmp_path: Path) -> None:
    message = told(replace(board.address, python="/nowhere/python3"), (add_model(tmp_path / "m.onnx"), "ort"))
    way_out = "Install Python 3.9 or newer there, or name one: ssh://127.0.0.1/path/to/python3"
    assert message == f"127.0.0.1: no /nowhere/python3 there. {way_out}"


OLD = """shift; code=$1; shift
exec $PYTHON -c "import sys; sys.version_info = (3, 7, 3); exec(sys.argv.pop(1))" "$code" "$@"
"""


@pytest.mark.parametrize(
    ("script", "message"),
    [(OLD, " there is 3.7. Install Python 3.9 or newer"), ("echo nonsense; exit 3", " there does not work (exit 3). ")],
)
def test_a_python_that_cannot_be_used_is_told(script: str, message: str, board: Loopback, tmp_path: Path) -> None:
    address = board.wrapped(f"python{len(script)}", script)
    assert f"{address.python}{message}" in told(address, (add_model(tmp_path / "m.onnx"), "ort"))


# ---- the transfer ---------------------------------------------------------------------------------------------------


def test_a_file_that_changed_on_its_way_is_not_run(board: Loopback, tmp_path: Path) -> None:
    # `twice` is the name of the model's graph
    script = 'case "$*" in *extractall*) sed s/twice/TWICE/ | $PYTHON "$@"; exit;; esac; exec $PYTHON "$@"'
    message = told(board.wrapped("bad-line", script), (add_model(tmp_path / "m.onnx"), "ort"))
    assert message == "127.0.0.1: m.onnx arrived damaged. Try again, then mistrust its disk"


def test_a_disk_that_refuses_the_files_is_told(tmp_path: Path) -> None:
    model = dense_model(tmp_path / "m.onnx", 512)
    with loopback('ForceCommand ulimit -f 600; eval "$SSH_ORIGINAL_COMMAND"') as board:
        message = told(board.address, (model, "ort"))
        assert message.startswith("127.0.0.1: cannot write there: File too large. Look after the disk of ")
        assert board.soon_clean(), board.left()


@pytest.mark.parametrize("room", ["too small", "filled meanwhile"])
def test_a_full_disk_is_told_and_left_as_it_was(room: str, tmp_path: Path) -> None:
    model = dense_model(tmp_path / "m.onnx", 512)
    with loopback() as board, small_disk(board.temporary, 512 if room == "too small" else 2048):
        # between our look at the free bytes and the transfer somebody else fills the disk
        others = board.temporary / "others"
        fill = f'case "$*" in *extractall*) head -c 1500000 /dev/zero >{others};; esac; exec $PYTHON "$@"'
        address = board.address if room == "too small" else board.wrapped("filler", fill)
        message = told(address, (model, "ort"))
        assert ("MB are free. Free some" if room == "too small" else "No space left on device") in message
        others.unlink(missing_ok=True)
        assert board.soon_clean(), board.left()


@contextlib.contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[None]:
    """A file system of so many KiB at `folder`; skips where none may be mounted."""
    owner = folder.stat()
    options = f"size={kib}k,uid={owner.st_uid},gid={owner.st_gid}"
    if os.getuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder]).returncode != 0:
        pytest.skip("only root may mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


# ---- wheels ---------------------------------------------------------------------------------------------------------


def wheel(folder: Path, name: str, files: dict[str, str]) -> None:
    """A wheel of Python files, of the kind that runs here."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    tag = f"{tag}-{tag}-manylinux_2_17_{os.uname().machine}"
    dist = f"{name}-1.0.dist-info"
    written = {
        **files,
        f"{dist}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{dist}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n",
        f"{dist}/RECORD": "",
    }
    folder.mkdir()
    with zipfile.ZipFile(folder / f"{name}-1.0-{tag}.whl", "w") as archive:
        for path, text in written.items():
            archive.writestr(path, text)


def test_a_runtime_that_the_board_lacks_is_brought_along_and_taken_away(
    board: Loopback, relu_tflite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = RUNNING.format(body="self.array = numpy.maximum(self.array, 0)").replace("[1]", "[1, 4]")
    wheel(
        tmp_path / "index",
        "tflite_runtime",
        {"tflite_runtime/__init__.py": "", "tflite_runtime/interpreter.py": source},
    )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    (found,) = over_ssh(board.address, (relu_tflite, "tflite"))
    assert (found.runtime, found.output_difference) == ("tflite", 0.0)  # against LiteRT here


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PIP_NO_INDEX": "1"}, "tflite-runtime is missing and has no wheel for "),
        (
            {"PIP_INDEX_URL": "http://127.0.0.1:9/"},
            "tflite-runtime missing, and no package index can be reached from here",
        ),
    ],
)
def test_a_runtime_that_cannot_be_brought_is_told(
    variables: dict[str, str], message: str, board: Loopback, relu_tflite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    said = told(board.address, (relu_tflite, "tflite"))
    assert said.startswith(f"127.0.0.1: {message}") and said.endswith("ssh://host/path/to/python")


# ---- what a runtime does there --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (DYING.format(signal=11), "crashed (signal 11) loading relu.tflite"),
        (
            RUNNING.format(body="os.kill(os.getpid(), 9)"),
            "crashed (signal 9, killed from outside: out of memory?) running",
        ),
        (RUNNING.format(body="os._exit(255)"), "failed (exit 255) running relu.tflite"),
        (RUNNING.format(body="raise MemoryError"), "cannot run relu.tflite: MemoryError"),
        (RUNNING.format(body="time.sleep(600)"), "did not finish within 6 s"),
        (RUNNING.format(body="os.fork(); time.sleep(600)"), "did not finish within 6 s"),
        ("import nowhere", "is installed but cannot be imported"),
    ],
)
def test_every_way_to_fail_there_is_told_and_ends_there(
    source: str, message: str, board: Loopback, relu_tflite: Path
) -> None:
    # noise of the right shape reaches the fake runtime
    address = with_runtime(board, source.replace("[1]", "[1, 4]"))
    said = told(address, (relu_tflite, "litert"), timeout_s=6.0 if "sleep" in source else 60.0)
    assert said.startswith(f"127.0.0.1: the LiteRT runtime {message}")


def scaled(factor: float) -> str:
    """A runtime whose answers are those of Relu times a factor."""
    body = f"self.array = numpy.maximum(self.array, 0) * numpy.float32({factor})"
    return RUNNING.format(body=body).replace("[1]", "[1, 4]")


def test_another_answer_there_is_an_error_that_tells_the_difference(board: Loopback, relu_tflite: Path) -> None:
    said = told(with_runtime(board, scaled(1.25)), (relu_tflite, "litert"))
    assert "output 0 of relu.tflite differs from this computer's by 0.25 relative (limit 1e-05)" in said


def test_a_difference_within_the_tolerance_is_told_with_the_latency(board: Loopback, relu_tflite: Path) -> None:
    factor = 1 + 2**-17  # exact in float32
    (found,) = over_ssh(with_runtime(board, scaled(factor)), (relu_tflite, "litert"), rounds=2)
    assert found.output_difference == pytest.approx(2**-17, rel=0.02)  # each product is rounded to 2^-24


def test_a_larger_tolerance_is_the_way_out_that_a_small_difference_names(board: Loopback, relu_tflite: Path) -> None:
    address = with_runtime(board, scaled(1 + 2**-10))
    said = told(address, (relu_tflite, "litert"), rounds=1)
    way_out = float(said.rpartition("--off-by ")[2])
    (found,) = over_ssh(address, (relu_tflite, "litert"), rounds=1, tolerance=way_out)
    assert found.output_difference == pytest.approx(2**-10, rel=0.01)


def test_an_answer_of_another_shape_is_told(board: Loopback, relu_tflite: Path) -> None:
    source = RUNNING.format(body="self.array = self.array[0]").replace("[1]", "[1, 4]")
    said = told(with_runtime(board, source), (relu_tflite, "litert"))
    assert "differs from this computer's by inf" in said


# ---- the connection -------------------------------------------------------------------------------------------------


def when_running(board: Loopback, act: Any) -> threading.Thread:
    """Call `act` once a model runs there."""

    def wait() -> None:
        while not any("agent/agent.py" in line for line in board.left()):
            time.sleep(0.05)
        time.sleep(0.5)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_a_connection_that_is_killed_mid_run_is_told_and_leaves_nothing_there(
    board: Loopback, relu_tflite: Path
) -> None:
    def kill() -> None:
        """What a pulled plug does to the two processes of sshd; the model's processes live on."""
        for pid in sshd_processes(board):
            os.kill(pid, signal.SIGKILL)

    address = with_runtime(board, RUNNING.format(body="time.sleep(600)").replace("[1]", "[1, 4]"))
    thread = when_running(board, kill)
    assert told(address, (relu_tflite, "litert")).startswith(
        "127.0.0.1: the connection broke during the LiteRT runtime"
    )
    thread.join()
    assert board.soon_clean(), board.left()


def test_a_board_that_falls_silent_is_given_up_and_cleans_up_when_it_wakes(board: Loopback, relu_tflite: Path) -> None:
    frozen: list[int] = []

    def freeze() -> None:
        frozen.extend(sshd_processes(board))
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)

    address = with_runtime(board, RUNNING.format(body="time.sleep(600)").replace("[1]", "[1, 4]"))
    options = ("ServerAliveInterval=1", "ServerAliveCountMax=1", *address.options)
    thread = when_running(board, freeze)
    message = told(replace(address, options=options), (relu_tflite, "litert"))
    thread.join()
    assert message.startswith("127.0.0.1: the connection broke during the LiteRT runtime")
    assert board.left()  # nobody there could know yet
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    assert board.soon_clean(), board.left()


def sshd_processes(board: Loopback) -> list[int]:
    """The processes of sshd that serve a connection."""
    names = {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in board.sessions()}
    return [pid for pid, name in names.items() if name.startswith("sshd")]
