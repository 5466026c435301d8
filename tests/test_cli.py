"""Commands as people type them: exit codes, one line on stderr, nothing half-written."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from toolchain.shipped import triangles_squares_path
from toolchain.synthetic import triangles_squares

ROOT = Path(__file__).parents[1]
SHIPPED = str(triangles_squares_path())


def jettison(*words: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CI": "1", **environment}
    command = [sys.executable, "-m", "toolchain.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=280, check=False)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    x, y = triangles_squares(96, seed=5)
    path = tmp_path_factory.mktemp("data") / "calibration.npz"
    np.savez(path, x=x, y=y, classes=np.array(["triangle", "square"]))
    return path


@pytest.fixture(scope="module")
def compressed(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "with space and ü"
    done = jettison(
        "compress", SHIPPED, "--data", samples, "--budget", "params<=40%", "--criterion", "taylor",
        "--runs", "3", "--warmup", "1", "-o", out,
    )  # fmt: skip
    # three inferences say nothing about speed: a busy machine may fail the latency check, and nothing else
    assert done.returncode in (0, 1), done.stderr
    checks = json.loads((out / "report.json").read_text())["checks"]
    assert all(c["passed"] for c in checks if not c["name"].startswith("latency"))
    return out


def test_help_loads_no_numerical_library():
    code = (
        "import sys, runpy; sys.argv = ['jettison', '--help']\n"
        "try: runpy.run_module('toolchain.cli', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "bad = {'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'torch', 'ai_edge_litert', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'loaded {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def test_prune_loads_neither_torch_nor_a_runtime(tmp_path: Path):
    code = (
        f"import sys, runpy; sys.argv = ['jettison', 'prune', {SHIPPED!r}, '--budget', 'units<=50%', '-o', 'p.onnx']\n"
        "try: runpy.run_module('toolchain.cli', run_name='__main__')\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "bad = {'torch', 'onnxruntime', 'ai_edge_litert', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'loaded {bad}' if bad else 0)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "p.onnx").stat().st_size > 0


def test_compress_writes_what_it_says(compressed: Path):
    found = {p.name for p in compressed.iterdir()}
    assert found == {"model.onnx", "model.tflite", "plan.json", "ranks.npz", "report.json", "report.html"}
    report = json.loads((compressed / "report.json").read_text())
    after = report["models"]["after"]
    weights = onnx.load(compressed / "model.onnx").graph.initializer
    floats = sum(int(np.prod(t.dims)) for t in weights if t.data_type == onnx.TensorProto.FLOAT)
    assert after["params"] == floats <= 0.4 * report["models"]["before"]["params"]
    assert report["verify"]["passed"] and report["verify"]["max_rel"] <= 1e-5
    assert {e["format"] for e in report["emitted"]} == {"onnx", "tflite"}
    assert all(e["passed"] for e in report["emitted"])


def test_the_stages_agree_with_the_whole(compressed: Path, samples: Path, tmp_path: Path):
    """prune by the plan of a compress run, verify it, recover it, export and verify the TFLite file."""
    plan = compressed / "plan.json"
    steps = [
        ("prune", SHIPPED, "--plan", plan, "-o", "p.onnx"),
        ("verify", SHIPPED, "p.onnx", "--plan", plan, "--data", samples),
        ("recover", SHIPPED, "p.onnx", "--plan", plan, "--data", samples, "-o", "r.onnx"),
        ("export", "r.onnx", "--to", "tflite", "-o", "files"),
        ("verify", "r.onnx", "files/r.tflite", "--data", samples),
        ("verify", compressed / "model.onnx", "r.onnx", "--data", samples),
        ("report", compressed),
        ("inspect", "p.onnx", "--format", "json"),
        ("groups", "p.onnx", "--format", "md"),
        ("ops", "--format", "csv"),
        ("bench", "p.onnx", "--runs", "2", "--format", "json"),
        ("doctor",),
    ]
    for words in steps:
        done = jettison(*words, cwd=tmp_path)
        assert done.returncode == 0, (words, done.stderr)


def test_ranks_of_a_run_give_its_plan_again(compressed: Path, tmp_path: Path):
    done = jettison(
        "prune", SHIPPED, "--ranks", compressed / "ranks.npz", "--budget", "params<=40%", "--plan-out", "p.json",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    mine, its = (json.loads(p.read_text()) for p in (tmp_path / "p.json", compressed / "plan.json"))
    assert mine["ranks_sha256"] == its["ranks_sha256"]
    told = ("settings", "costs", "used")  # the file that either makes tells its own settings, which take bytes
    assert {k: v for k, v in mine.items() if k not in told} == {k: v for k, v in its.items() if k not in told}


def bad_inputs(folder: Path) -> dict[str, tuple[list[str], int, str]]:
    """name -> (words, exit code, what stderr must say)."""
    model = onnx.load(SHIPPED)
    whole = Path(SHIPPED).read_bytes()
    files = {"empty.onnx": b"", "half.onnx": whole[: len(whole) // 2], "text.onnx": b"<html>no model</html>"}
    files |= {"noise.onnx": bytes(np.random.default_rng(0).integers(0, 256, 4096, dtype=np.uint8)), "there.onnx": whole}
    files |= {"x.tflite": b"\x1c\0\0\0TFL3" + bytes(64), "x.pt": b"PK\x03\x04" + bytes(64)}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    weights = next(t for t in model.graph.initializer if len(t.dims) == 4)
    array = onnx.numpy_helper.to_array(weights).copy()
    array[0, 0, 0, 0] = np.nan
    weights.CopyFrom(onnx.numpy_helper.from_array(array, weights.name))
    onnx.save(model, folder / "nan.onnx")
    x, y = triangles_squares(8, seed=1)
    np.savez(folder / "shape.npz", x=x[:, :, :16, :16], y=y)
    np.savez(folder / "labels.npz", x=x, y=y + 7)
    np.savez(folder / "good.npz", x=x, y=y)
    (folder / "other.json").write_text('{"schema": "x"}')
    prune = ["prune", "--budget", "units<=50%"]
    compress = ["compress", SHIPPED, "--budget", "params<=50%", "-o", "fresh", "--data"]
    return {
        "missing": ([*prune, "nothing.onnx"], 3, "no such file"),
        "a path too long": ([*prune, "x" * 300], 3, "file name too long"),
        "a path too long to write": ([*prune, SHIPPED, "-o", "x" * 300], 3, "the path is too long"),
        "a folder": ([*prune, "."], 3, "is a folder"),
        "empty": ([*prune, "empty.onnx"], 3, "the file is empty"),
        "truncated": ([*prune, "half.onnx"], 3, "not an ONNX model"),
        "text": ([*prune, "text.onnx"], 3, "not an ONNX model"),
        "noise": ([*prune, "noise.onnx"], 3, "not an ONNX model"),
        "a tflite file": ([*prune, "x.tflite"], 3, "TFLite"),
        "a pt file": ([*prune, "x.pt"], 3, "zip archive"),
        "NaN weights": ([*prune, "nan.onnx"], 3, f"tensor '{weights.name}': has 1 NaN (first at [0, 0, 0, 0])"),
        "data shape": ([*compress, "shape.npz"], 3, "is (N, 1, 16, 16), the model wants (N, 1, 32, 32)"),
        "labels": ([*compress, "labels.npz"], 3, "label 8 is outside the model's 2 classes"),
        "no data": (["compress", SHIPPED, "--budget", "params<=50%", "-o", "fresh"], 2, "needs samples"),
        "unit": (["prune", SHIPPED, "--budget", "flash<=10MBs"], 2, "unknown unit 'MBs'"),
        "term": (["prune", SHIPPED, "--budget", "weight<=10%"], 2, "unknown budget 'weight'"),
        "zero": (["prune", SHIPPED, "--budget", "params<=0"], 2, "leaves nothing"),
        "out of reach": (["prune", SHIPPED, "--budget", "params<=10"], 5, "the best is"),
        "exists": ([*prune, SHIPPED, "-o", "there.onnx"], 2, "there.onnx exists"),
        "onto itself": ([*prune, "there.onnx", "-o", "there.onnx", "--force"], 2, "would replace the model itself"),
        "no folder": ([*prune, SHIPPED, "-o", "no/p.onnx"], 3, "no such folder"),
        "plan of another": (["prune", SHIPPED, "--plan", "other.json"], 3, "no plan.json"),
        "criterion": ([*compress, "good.npz", "--criterion", "luck"], 2, "unknown criterion 'luck'"),
        "format": ([*compress, "good.npz", "--to", "coreml"], 2, "unknown format 'coreml'"),
        "no option": (["prune", SHIPPED, "--ratio", "3"], 2, "--ratio"),
        "no command": (["shrink", SHIPPED], 2, "shrink"),
        "shape": (["inspect", SHIPPED, "--shape", "x=3"], 2, "cannot read the shape"),
    }


def test_a_mistake_is_one_line_with_its_exit_code_and_leaves_nothing(tmp_path: Path):
    rows = bad_inputs(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    wrong = []
    for name, (words, code, says) in rows.items():
        done = jettison(*words, cwd=tmp_path)
        lines = done.stderr.strip().splitlines()
        if done.returncode != code or len(lines) != 1 or says not in done.stderr:
            wrong.append((name, done.returncode, done.stderr[-300:]))
        if not (lines and lines[-1].startswith("jettison: error: ")) or done.stdout:
            wrong.append((name, "stdout or prefix", done.stdout[-200:], lines))
    after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert not wrong
    assert after == before


def test_an_interrupt_leaves_no_partial_file(samples: Path, tmp_path: Path):
    command = [
        sys.executable,
        "-m",
        "toolchain.cli",
        "compress",
        SHIPPED,
        "--data",
        str(samples),
        "--budget",
        "params<=40%",
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [*command, "-o", "out"], cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells let background jobs ignore it
    )  # fmt: skip
    assert child.stderr is not None and child.stderr.readline().startswith("inspect")
    time.sleep(1)  # while it ranks
    child.send_signal(signal.SIGINT)
    _, told = child.communicate(timeout=60)
    assert child.returncode == 130, told
    assert told.strip().splitlines()[-1] == "jettison: error: interrupted"
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_names_inside_a_model_cannot_write_to_the_terminal(tmp_path: Path):
    model = onnx.load(SHIPPED)
    evil = "\x1b[31m=cmd()|<script>\n"
    first = next(n for n in model.graph.node if n.op_type == "Conv")
    for t in model.graph.initializer:
        if t.name == first.input[1]:
            t.name = evil + ".weight"
    first.input[1] = evil + ".weight"
    onnx.save(model, tmp_path / "evil.onnx")
    for form in ("table", "md", "csv"):
        done = jettison("groups", "evil.onnx", "--format", form, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout
        assert form != "md" or "<script>" not in done.stdout


@pytest.mark.parametrize("per_class", [False, True])
def test_a_gradient_graph_is_a_file_that_onnxruntime_alone_runs(per_class: bool, samples: Path, tmp_path: Path) -> None:
    """The same attributions as `attribute`, summed by class, from a file, h of another session and 32 nodes."""
    import onnxruntime as ort

    from toolchain.compress.attribution import attribute, quadrature
    from toolchain.compress.groups import analyse
    from toolchain.model import load
    from toolchain.session import run, session, with_outputs

    model = load(Path(SHIPPED))
    cut, axis = next(c for g in analyse(model).groups if g.kind == "dense" for c in g.cuts)
    words = ("gradient", SHIPPED, "--at", cut, "-o", tmp_path / "g.onnx")
    done = jettison(*words, *["--target", "classes"] * per_class)
    assert done.returncode == 0, done.stderr
    assert "true class of each sample" in done.stdout and f"value '{cut}' of each sample" in done.stdout
    with np.load(samples) as file:
        x, labels = file["x"][:20].astype(np.float32), file["y"][:20].astype(np.int64)
    feed = dict.fromkeys(model.inputs, x)
    (h,) = run(session(with_outputs(model.ir, [cut])), feed)
    alpha, weight = quadrature(32)
    alone = ort.InferenceSession(tmp_path / "g.onnx", providers=["CPUExecutionProvider"])
    given = {"jettison/h": h, "jettison/alpha": alpha, "jettison/weight": weight, "jettison/labels": labels}
    (found,) = alone.run(None, given)
    assert found.shape == (3 if per_class else 1, *h.shape)
    (wanted,) = attribute(
        model, [(cut, axis)], feed, labels, target="classes" if per_class else "loss", steps=32, tolerance=np.inf
    )
    np.testing.assert_allclose(found.sum(axis=1), wanted.sums.sum(axis=0), rtol=1e-4, atol=1e-4)
    assert {i.domain for i in onnx.load(tmp_path / "g.onnx").opset_import} == {""}
    again = jettison(*words)
    assert again.returncode == 2 and "exists" in again.stderr
    wrong = jettison("gradient", SHIPPED, "--at", "nowhere", "-o", tmp_path / "h.onnx")
    assert wrong.returncode == 2 and "no value 'nowhere'" in wrong.stderr and not (tmp_path / "h.onnx").exists()


def test_a_job_that_cannot_be_done_leaves_no_folder(tmp_path: Path) -> None:
    run = jettison("compress", SHIPPED, "--criterion", "magnitude", "--budget", "params<=10", "-o", tmp_path / "out")
    assert run.returncode == 5, run.stderr
    assert not list(tmp_path.iterdir())


def test_few_samples_for_least_squares_are_told_with_how_many_it_takes(tmp_path: Path) -> None:
    x, y = triangles_squares(4, 32, 1)
    np.savez(tmp_path / "few.npz", x=x, y=y)
    given = ("--data", tmp_path / "few.npz", "--criterion", "l2", "--budget", "params<=50%", "--runs", "0")
    run = jettison("compress", SHIPPED, *given, "-o", tmp_path / "out")
    assert run.returncode == 0, run.stderr
    assert re.search(r"recover .* 4 rows for (\d+) unknowns: \1 samples would settle them", run.stderr)
