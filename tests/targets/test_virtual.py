"""Laws of boards that exist only here. They need qemu and `jettison targets setup qemu-a53`; else they are skipped.

Counts are compared with each other and answers with this computer's; no time is looked at.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from targets import virtual
from targets.locks import PREFIX
from targets.measure import RunnerError
from targets.rootfs import ARCHITECTURES, home
from targets.ssh import Address, measure_over_ssh
from toolchain.shipped import triangles_squares_path

BOARD = "qemu-a53"


def needs(name: str) -> pytest.MarkDecorator:
    reason = virtual.is_set_up(name)
    return pytest.mark.skipif(reason is not None, reason=str(reason))


INTERRUPT = 20_000  # instructions; the guest's kernel takes 1,300 to 13,000 for one, every 4 ms of its clock


def dense(path: Path, width: int) -> Path:
    """y = relu(x·W): [1, width] -> [1, width], seeded."""
    weight = np.random.default_rng(width).standard_normal((width, width)).astype(np.float32) / width**0.5
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, width)) for name in "xy")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Relu", ["z"], ["y"])]
    graph = helper.make_graph(nodes, "dense", [x], [y], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def machines(parent: int) -> set[str]:
    """The process ids of virtual boards that a process powered on; they stay its while setpriv becomes qemu."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words, status = (folder / "cmdline").read_bytes(), (folder / "status").read_text()
        except OSError:  # it ended meanwhile
            continue
        if PREFIX.encode() in words and b"qemu-system" in words and f"\nPPid:\t{parent}\n" in status:
            found.add(folder.name)
    return found


def is_running(pid: str) -> bool:
    """Whether a process is there, and not merely its exit status."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.fixture(scope="module")
def board() -> Iterator[Address]:
    with virtual.virtual_board(BOARD) as address:
        yield address


# ---- without an emulator --------------------------------------------------------------------------------------------


def test_an_unknown_board_is_told_with_those_that_are_known() -> None:
    with pytest.raises(RunnerError, match="no emulated board 'qemu-z80'; known are qemu-a53"):
        virtual.setup("qemu-z80", print)


def test_a_board_not_set_up_says_how_to_set_it_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(virtual, "missing", lambda programs: None)
    assert virtual.is_set_up(BOARD) == f"{BOARD} is not set up. Set it up with: jettison targets setup {BOARD}"
    with pytest.raises(RunnerError, match="targets setup"), virtual.virtual_board(BOARD):
        pass


def test_a_program_that_is_missing_here_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt-get install qemu-system-arm" in str(virtual.is_set_up(BOARD))
    assert "apt-get install qemu-user" in str(virtual.is_set_up("qemu-user-a15"))


def test_no_board_has_every_instruction_there_is() -> None:
    assert "max" not in {row.processor for row in virtual.EMULATED.values()}


# ---- programs for another processor ---------------------------------------------------------------------------------


@needs("qemu-user-a53")
@pytest.mark.parametrize("name", ["qemu-user-a53", "qemu-user-a72"])
def test_a_model_answers_on_another_processor_as_it_does_here(name: str, tmp_path: Path) -> None:
    (found,) = virtual.measure_user([(dense(tmp_path / "dense.onnx", 32), "ort")], name)
    assert found.why_not is None and found.target == name
    assert found.output_difference is not None and found.output_difference <= 1e-5
    assert found.is_same_hash == (found.output_difference == 0)


@needs("qemu-user-a53")
def test_a_model_that_only_the_board_cannot_run_is_a_result_and_not_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = dense(tmp_path / "dense.onnx", 8)
    monkeypatch.setitem(virtual.EMULATED, "old", virtual.Emulated("arm64", "no-such-cpu", boots=False))
    (found,) = virtual.measure_user([(model, "ort")], "old")
    assert found.why_not is not None and "no-such-cpu" in found.why_not and found.output_hash is None


@needs("qemu-user-a53")
def test_the_key_given_to_the_board_is_the_one_that_is_expected_of_it(tmp_path: Path) -> None:
    """Dropbear's own tool, run in the emulator, finds the same public key in what was converted."""
    _, files = virtual.credentials(tmp_path, 2222)
    (key,) = [file.content for file in files if file.name == "etc/dropbear/host_key"]
    (tmp_path / "dropbear").write_bytes(key)
    root = home("arm64") / "root"
    words = [ARCHITECTURES["arm64"].emulator, "-cpu", "cortex-a53", "-L", root, root / "usr/bin/dropbearkey"]
    said = subprocess.run([*words, "-y", "-f", tmp_path / "dropbear"], capture_output=True, text=True, check=True)
    assert (tmp_path / "host.pub").read_text().split()[1] in said.stdout.split()


# ---- the virtual board ----------------------------------------------------------------------------------------------


@needs(BOARD)
@pytest.mark.timeout(600)
def test_counts_repeat_whatever_else_this_computer_does(board: Address, tmp_path: Path) -> None:
    """Three processes for each of two models: within 0.5 %, or one timer interrupt, which hits a short run or not."""
    pairs = [(dense(tmp_path / f"dense{width}.onnx", width), "ort") for width in (256, 768)]
    pairs.append((triangles_squares_path(), "ort"))
    small, large, network = measure_over_ssh(
        pairs, board, target=BOARD, runs=9, warmup=1, rounds=3, grade="counted", timeout_s=120
    )
    for found, interrupt in ((small, INTERRUPT), (large, INTERRUPT), (network, 0)):
        assert found.grade == "counted" and len(found.round_p50_ns) == 3
        assert max(found.round_p50_ns) - min(found.round_p50_ns) <= max(0.005 * min(found.round_p50_ns), interrupt)
        assert found.output_difference is not None and found.output_difference <= 1e-5
        assert found.host.machine == "aarch64" and found.host.cores == 1
    macs = 768**2 - 256**2
    # a product needs at least a quarter of an instruction where registers hold four floats
    assert large.ns.p50 - small.ns.p50 >= macs / 4
    # an ONNX file's weights lie in memory, and the count of resident bytes is the guest kernel's own
    assert large.peak_over_baseline_bytes is not None and large.peak_over_baseline_bytes >= 4 * 768**2


@needs(BOARD)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["dense", "channel"])
def test_the_attribution_graph_ranks_on_the_board_as_it_does_here(kind: str, board: Address, tmp_path: Path) -> None:
    from benchmarks.rank_on_board import exported, on_board, on_host, units

    graph, inputs = exported(kind, tmp_path, samples=4)
    here, there = on_host(graph, inputs), on_board(graph, inputs, board)
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-5 * np.abs(here).max())
    assert np.array_equal(np.argsort(units(there)), np.argsort(units(here)))


@needs(BOARD)
def test_the_machine_is_gone_when_the_block_is_left_by_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    before = machines(os.getpid())
    with pytest.raises(ZeroDivisionError), virtual.virtual_board(BOARD):
        assert machines(os.getpid()) - before
        raise ZeroDivisionError
    assert not machines(os.getpid()) - before


@needs(BOARD)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_machine_is_gone_when_its_parent_is_interrupted_or_killed(how: signal.Signals, tmp_path: Path) -> None:
    program = (
        "from targets.virtual import virtual_board\nwith virtual_board('qemu-a53'): print('up', flush=True); input()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(virtual.__file__).parents[1]), "TMPDIR": str(tmp_path)},
    )
    with child:
        assert child.stdout is not None and child.stdout.readline() == b"up\n"
        (machine,) = machines(child.pid)
        child.send_signal(how)
        child.wait(timeout=180)
    end = time.monotonic() + 30
    while is_running(machine) and time.monotonic() < end:
        time.sleep(0.1)
    assert not is_running(machine)


@needs(BOARD)
def test_a_board_that_hangs_is_given_up_with_what_its_console_said_last() -> None:
    before = machines(os.getpid())
    told = pytest.raises(RunnerError, match=r"did not come up within 0\.2 s: its console is empty")
    with told, virtual.virtual_board(BOARD, timeout_s=0.2):
        pass
    assert not machines(os.getpid()) - before


@needs(BOARD)
def test_a_machine_that_cannot_start_says_why() -> None:
    told = pytest.raises(RunnerError, match=r"did not start: qemu-system-aarch64: .*initrd")
    with told, virtual.virtual_board(BOARD, memory_mib=128):
        pass


@needs(BOARD)
def test_a_board_that_dies_while_in_use_is_told(tmp_path: Path) -> None:
    model = dense(tmp_path / "dense.onnx", 8)
    before = machines(os.getpid())
    told = pytest.raises(RunnerError, match=r"the virtual board died \(exit -9\); its console ends with")
    with told, virtual.virtual_board(BOARD) as address:
        (machine,) = machines(os.getpid()) - before
        os.kill(int(machine), signal.SIGKILL)
        time.sleep(0.5)
        measure_over_ssh([(model, "ort")], address, target=BOARD, grade="counted")
