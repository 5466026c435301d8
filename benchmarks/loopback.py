"""What SSH adds, and what a pulled plug leaves: sshd on this computer, as an ordinary user where root runs this.

    PYTHONPATH=.:tests/targets python -m benchmarks.loopback [--wheels]

--wheels takes the system's bare python3 there, to which numpy and onnxruntime are brought from the package index.
"""

from __future__ import annotations

import os
import pwd
import signal
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from boards import Loopback, children, loopback
from onnx import TensorProto, helper, numpy_helper

from targets.link import linked, run
from targets.measure import RunnerError, measure_side_by_side
from targets.ssh import measure_over_ssh

WIDTH = 1024  # a product of 1 M multiply-accumulates, some 0.1 ms


def model(path: Path) -> Path:
    """y = x W."""
    weight = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float32)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, WIDTH)) for name in "xy")
    nodes = [helper.make_node("MatMul", ["x", "W"], ["y"])]
    graph = helper.make_graph(nodes, "dense", [x], [y], [numpy_helper.from_array(weight, "W")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def connecting(board: Loopback) -> None:
    """Print what a connection costs, and each session on it."""
    opened, sessions = [], []
    for _ in range(5):
        start = time.perf_counter()
        with linked(board.address, wait_s=60, limit_s=60) as link:
            opened.append(time.perf_counter() - start)
            for _ in range(5):
                start = time.perf_counter()
                run(link, ["true"], doing="true", timeout_s=60)
                sessions.append(time.perf_counter() - start)
    print(f"connect and make the folder  {median(opened):.3f} s, each session on it {1e3 * median(sessions):.0f} ms")


def benching(board: Loopback, path: Path, python: str) -> None:
    """Print the same model's latency here and through SSH to here."""
    start = time.perf_counter()
    (there,) = measure_over_ssh([(path, "ort")], replace(board.address, python=python), target="loopback", runs=500)
    wall_s = time.perf_counter() - start
    (here,) = measure_side_by_side([(path, "ort")], runs=500)
    for name, found in (("here", here), ("over SSH", there)):
        print(f"{name:9} p50 {found.ns.p50 / 1e6:.4f} ms, noise {100 * found.noise:.0f} %, {found.runs} runs")
    print(f"start to end over SSH {wall_s:.1f} s, 5 rounds; outputs differ by {there.output_difference:g} relative")
    print(f"left there: {'nothing' if board.soon_clean() else board.left()}")


def pulling(board: Loopback, path: Path) -> None:
    """Print what happens when sshd dies under a run, and how long the board needs to be clean."""
    pulled: list[float] = []

    def pull() -> None:
        while not any("agent/agent.py" in line for line in board.left()):
            time.sleep(0.05)
        time.sleep(1)
        serving = children(board.server.pid)
        pulled.append(time.perf_counter())
        for pid in serving:
            if Path(f"/proc/{pid}/comm").read_text().startswith("sshd"):
                os.kill(pid, signal.SIGKILL)

    threading.Thread(target=pull, daemon=True).start()
    try:
        measure_over_ssh([(path, "ort")], board.address, target="loopback", runs=10**7, rounds=1)
    except RunnerError as error:
        told_s = time.perf_counter() - pulled[0]
        left = "nothing" if board.soon_clean() else str(board.left())
        print(f"connection killed mid-run    told after {told_s:.2f} s: {error}")
        print(f"left there: {left}, {time.perf_counter() - pulled[0]:.2f} s after the kill")


def main() -> None:
    """Print all of it."""
    with loopback() as board, tempfile.TemporaryDirectory() as folder:
        user = pwd.getpwnam(str(board.address.user))
        print(f"sshd on the loopback interface as {user.pw_name} (uid {user.pw_uid})")
        path = model(Path(folder, "dense.onnx"))
        connecting(board)
        benching(board, path, "/usr/bin/python3" if "--wheels" in sys.argv else board.address.python)
        pulling(board, path)


if __name__ == "__main__":
    main()
