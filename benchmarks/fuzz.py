"""Random networks, emitted as TFLite and compared with onnxruntime under XNNPACK and the reference kernels.

    python -m benchmarks.fuzz [--draws 3000] [--seed 1] [--out fuzz.jsonl] [--shrink 3]

One JSON line for each draw, and a summary; exit code 1 if a network is wrong. A draw is equal within `tolerance`,
relative to the largest output: 1e-5, or 20 times the network's own float noise, which is what onnxruntime's graph
optimisations change. A refusal must name its node. One child process runs file after file; one that takes it down is
told as a crash of that network.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from benchmarks.fuzz_nets import FIXED, Draft, network
from toolchain.emit import to_tflite
from toolchain.errors import JettisonError, Unsupported
from toolchain.model import load

TOLERANCE = 1e-5
NOISES = 20
KERNELS = ("BUILTIN", "BUILTIN_REF")
NO_KERNEL = "Didn't find op for builtin opcode"  # what LiteRT says of an op that a set of kernels lacks
LENGTH = 400  # choices of a draw
Row = dict[str, Any]
Arrays = dict[str, np.ndarray]


class Runner:
    """A child process that runs files; it is started anew after a crash."""

    def __init__(self) -> None:
        self.child: Popen[str] | None = None

    def run(self, path: Path, kernels: str) -> Arrays | str:
        """Outputs by name for feeds in x.npz beside the file, or what went wrong."""
        if self.child is None or self.child.poll() is not None:
            command = [sys.executable, "-m", "benchmarks.fuzz", "--serve"]
            self.child = Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, text=True)
        assert self.child.stdin is not None and self.child.stdout is not None
        self.child.stdin.write(f"{path}\t{kernels}\n")
        self.child.stdin.flush()
        answer = self.child.stdout.readline().strip()
        if not answer:
            return f"crashed with exit code {self.child.wait()}"
        if answer != "done":
            return answer
        with np.load(path.with_name("y.npz")) as stored:
            return {k: stored[k] for k in stored.files}

    def close(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.communicate()


def serve() -> None:
    """Run each file named on a line of standard input."""
    from toolchain.emit.child import run

    for line in sys.stdin:
        name, kernels = line.strip().split("\t")
        path, answer = Path(name), "done"
        try:
            with np.load(path.with_name("x.npz")) as stored:
                given = {k: stored[k] for k in stored.files}
            found: Any = run(str(path), given, resolver=kernels)
            np.savez(path.with_name("y.npz"), **found)
        except Exception as error:  # whatever the runtime says is the answer
            answer = (str(error).strip() or repr(error)).splitlines()[0]
        print(answer, flush=True)


# ---- judging a network ---------------------------------------------------------------------------------------------
def judged(g: Draft, runner: Runner, folder: Path) -> Row:
    """What came of a network: equal, wrong, refused (the node named), failed (a crash of ours or of the runtime), or
    void (onnxruntime itself does not run it)."""
    row: Row = {"blocks": g.blocks}
    proto = g.proto()
    path = folder / "net.onnx"
    onnx.save(proto, path)
    feeds = {k: g.values[k][:FIXED] for k in g.inputs}
    row["ops"] = dict(Counter(n.op_type for n in proto.graph.node))
    try:
        wanted, plain = (answers(proto, feeds, level) for level in ("ORT_ENABLE_ALL", "ORT_DISABLE_ALL"))
    except Exception as error:  # onnxruntime's shape inference contradicts its own kernels: there is no truth to meet
        return row | {"status": "void", "reason": str(error)}
    row["tolerance"] = max(TOLERANCE, NOISES * gap(plain, wanted))
    try:
        model = load(path)
        data = to_tflite(model, batch=FIXED if len(g.nodes) % 3 == 0 else 1).data
    except Unsupported as error:
        names = {n.name for n in proto.graph.node} | {v for n in proto.graph.node for v in n.output}
        is_named = any(f"'{name}'" in error.where for name in names)
        return row | {"status": "refused" if is_named else "failed", "reason": str(error)}
    except JettisonError as error:
        return row | {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
    except Exception as error:
        return row | {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
    (folder / "net.tflite").write_bytes(data)
    np.savez(folder / "x.npz", **feeds)  # type: ignore[arg-type]
    for kernels in KERNELS:
        found = runner.run(folder / "net.tflite", kernels)
        if isinstance(found, str):
            if kernels == "BUILTIN_REF" and NO_KERNEL in found:
                row["no_kernel"] = found
                continue
            return row | {"status": "failed", "reason": f"{kernels}: {found}"}
        row[kernels] = gap(found, wanted)
        if not row[kernels] <= row["tolerance"]:
            return row | {"status": "wrong", "reason": f"{kernels}: {row[kernels]:.2g}"}
    return row | {"status": "equal"}


def answers(proto: onnx.ModelProto, feeds: Arrays, level: str) -> Arrays:
    """What onnxruntime computes with this much optimisation."""
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip((o.name for o in proto.graph.output), session.run(None, feeds), strict=True))


def gap(found: Arrays, wanted: Arrays) -> float:
    """Largest |Δ| of an output over its largest |y|; infinite where names or shapes differ or a number is none."""
    if found.keys() != wanted.keys() or any(found[k].shape != y.shape for k, y in wanted.items()):
        return float("inf")
    pairs = [(np.abs(found[k].astype(np.float64) - y).max(), np.abs(y).max()) for k, y in wanted.items()]
    gaps = [delta / max(size, 1e-30) for delta, size in pairs]
    return float("inf") if np.isnan(gaps).any() else float(max(gaps))


# ---- many of them --------------------------------------------------------------------------------------------------
def choices_of(seed: int, draw: int) -> list[int]:
    """The numbers behind a draw."""
    return np.random.default_rng([seed, draw]).integers(0, 1 << 16, LENGTH).tolist()


def drawn(choices: Sequence[int], runner: Runner) -> Row:
    """A network from its choices, judged."""
    with tempfile.TemporaryDirectory(prefix="jettison-") as folder:
        return judged(network(choices), runner, Path(folder))


def shrunk(choices: list[int], fails: Callable[[list[int]], bool], rounds: int = 3) -> list[int]:
    """Fewer and smaller choices that still fail: chunks are left out, then set to 0."""
    used = network(choices).at
    choices = choices[:used]
    for _ in range(rounds):
        before, size = choices, len(choices) // 2
        while size:
            at = 0
            while at < len(choices):
                rest = choices[at + size :]
                tries = [choices[:at] + rest, choices[:at] + [0] * min(size, len(choices) - at) + rest]
                better = next((t for t in tries if t != choices and fails(t)), None)
                at, choices = (at + size, choices) if better is None else (at + size * (better is tries[1]), better)
            size //= 2
        if choices == before:
            break
    return choices


def told(choices: Sequence[int]) -> str:
    """A network as text, to be written down as a case."""
    g = network(choices)
    lines = [f"{k} {g.shape(k)[1:]}" for k in g.inputs]
    graph = g.proto().graph
    needed = {o.name for o in graph.output}
    for node in reversed(graph.node):
        needed |= set(node.input) if needed & set(node.output) else set()
    for node in (n for n in graph.node if needed & set(n.output)):
        settings = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        inputs = [
            f"{n}{g.parameters[n].shape}={g.parameters[n].tolist()}"
            if n in g.parameters and g.parameters[n].size < 9
            else f"{n}{g.parameters[n].shape}"
            if n in g.parameters
            else n
            for n in node.input
        ]
        lines.append(f"{', '.join(node.output)} = {node.op_type}({', '.join(inputs)}) {settings}")
    return "\n".join([*lines, "outputs " + ", ".join(o.name for o in graph.output)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="one draw alone")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--shrink", type=int, default=3, help="how many failures to make small")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        return serve()
    runner, begun, rows = Runner(), time.perf_counter(), list[Row]()
    file = asked.out.open("w") if asked.out else None
    draws = range(asked.draws) if asked.only is None else [asked.only]
    for draw in draws:
        row = {"draw": draw, **drawn(choices_of(asked.seed, draw), runner)}
        rows.append(row)
        if file is not None:
            print(json.dumps(row), file=file, flush=True)
    for row in [r for r in rows if r["status"] in ("wrong", "failed")][: asked.shrink]:
        status = row["status"]
        small = shrunk(choices_of(asked.seed, row["draw"]), lambda c, s=status: drawn(c, runner)["status"] == s)
        print(f"---- draw {row['draw']}: {drawn(small, runner)['reason']}\n{told(small)}", flush=True)
    runner.close()
    report = summary(rows)
    print(json.dumps(report | {"seed": asked.seed, "seconds": round(time.perf_counter() - begun)}))
    if file is not None:
        file.close()
    sys.exit(1 if report["draws"].keys() & {"wrong", "failed"} else 0)


def summary(rows: Sequence[Row]) -> Row:
    """How many came to what, why, how far apart at most, and which ops they had."""
    ops: Counter[str] = Counter()
    for row in rows:
        ops.update(row["ops"].keys())
    reasons = Counter(row["reason"].split(":", 1)[-1].strip() for row in rows if row["status"] == "refused")
    return {
        "draws": dict(Counter(row["status"] for row in rows)),
        "failures": [(row["draw"], row["reason"][:160]) for row in rows if row["status"] in ("wrong", "failed")],
        "refusals": dict(reasons.most_common(20)),
        "largest_gap": {
            k: max((row.get(k, 0.0) for row in rows if row["status"] == "equal"), default=0.0) for k in KERNELS
        },
        "no_kernel": sum("no_kernel" in row for row in rows),
        "ops": dict(ops.most_common()),
    }


if __name__ == "__main__":
    main()
