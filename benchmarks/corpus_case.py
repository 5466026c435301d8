"""One network of a corpus from load to proof, in a process of its own: prints one JSON line,
and one before the gradients are checked.

    python -m benchmarks.corpus_case NAME.onnx [--criterion random] [--align off] [--share 50] [--approximate]
        [--no-gradient]

NAME.npz holds probe inputs p0_x0, p1_x0, … (probe, input). The network is exact if four things hold within `tolerance`,
each relative to the largest output: the loaded model answers as the file does, two probes in one batch as each alone,
the pruned one as the masked one (with --approximate: with norms over what is kept), and the same after it was saved and
read again. The tolerance is 1e-5, or 20 times the
network's own float noise: what onnxruntime's own graph optimisations change.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from toolchain.compress.criteria import Evidence, rank
from toolchain.compress.groups import Channels, analyse
from toolchain.compress.plan import make_plan
from toolchain.compress.surgery import mask, prune
from toolchain.errors import JettisonError, OutOfReach
from toolchain.model import Model, load, save
from toolchain.profile import macs, params
from toolchain.session import run, session

TOLERANCE = 1e-5
NOISES = 20
Row = dict[str, Any]
Arrays = list[np.ndarray[Any, Any]]
Feed = dict[str, np.ndarray[Any, Any]]


def case(path: Path, criterion: str, align: str, share: float, approximate: bool, gradient: bool) -> Row:
    """Everything that is told about one network."""
    row: Row = {"name": path.stem, "bytes": path.stat().st_size, "seconds": {}}
    try:
        follow(row, path, criterion, align, share, approximate, gradient)
    except JettisonError as error:
        row |= {"status": "refused", "reason": str(error)}
    except Exception as error:  # told as a crash of ours, with its place
        at = error.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        place = "" if at is None else f" at {Path(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno}"
        row |= {"status": "crashed", "reason": f"{type(error).__name__}: {str(error)[:300]}{place}"}
    return row


@contextmanager
def timed(row: Row, stage: str) -> Iterator[None]:
    """Note the stage, for a crash in it, and its seconds."""
    row["stage"] = stage
    begun = time.perf_counter()
    yield
    row["seconds"][stage] = round(time.perf_counter() - begun, 4)


def follow(row: Row, path: Path, criterion: str, align: str, share: float, approximate: bool, gradient: bool) -> None:
    """Fill the row, stage by stage; what was filled stays if a stage fails."""
    with timed(row, "load"):
        model = load(path)
    row |= {"batch": model.batch, "held_by": model.held_by, "family": family(model), "nodes": len(model.graph)}
    wanted, row["noise"] = originals(path, probes_of(path))
    probes = feeds(path, model)
    row["tolerance"] = max(TOLERANCE, NOISES * row["noise"])
    with timed(row, "run"):
        row["load_error"] = apart([answers(model, p) for p in probes], wanted)
        row["batch_error"] = batched(model, probes, wanted)
    with timed(row, "analyse"):
        channels = analyse(model, approximate)
    sizes = [len(g) for g in channels.groups]
    row |= {"groups": len(sizes), "units": sum(sizes), "params": params(model), "macs": macs(model)}
    row["frozen"] = frozen(channels)
    with timed(row, "plan"):
        ranks = rank(criterion, Evidence(model, channels, {}, np.zeros(0, np.int64)))
        removed = planned(row, model, channels, ranks, share, align)
    with timed(row, "prune"):
        pruned = prune(model, channels, removed)
    row |= {"removed": len(removed), "params_kept": params(pruned) / row["params"]}
    row["macs_kept"] = macs(pruned) / max(row["macs"], 1)
    with timed(row, "verify"):
        masked = mask(model, channels, removed)
        goal = [answers(masked, p) for p in probes]
        row["masked_moves"] = apart(goal[:1], goal[1:2])
        row["masked_from_dense"] = apart(goal, wanted)
        found = [answers(pruned, p) for p in probes]
        row["error"] = apart(found, goal)
        if approximate:
            whole = mask(model, channels, removed, norms=False)
            row["deviation"] = apart(found, [answers(whole, p) for p in probes])
        with tempfile.TemporaryDirectory() as folder:
            save(pruned, Path(folder) / "pruned.onnx")
            again = load(Path(folder) / "pruned.onnx")
        row["reload_error"] = apart([answers(again, p) for p in probes], goal)
    worst = max(row[k] for k in ("load_error", "batch_error", "error", "reload_error"))
    row["status"] = "wrong" if not worst <= row["tolerance"] else "exact" if len(removed) else "whole"
    row["reason"] = next(iter(row["frozen"]), "")
    row["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if gradient:
        print(json.dumps(row | {"gradient": [{"status": "timeout"}]}), flush=True)  # all there is if time runs out
        with timed(row, "gradient"):
            from benchmarks.corpus_gradient import gradients

            row["gradient"] = gradients(model, channels, probes)
    row["stage"] = "done"


def planned(row: Row, model: Model, channels: Channels, ranks: Any, share: float, align: str) -> np.ndarray[Any, Any]:
    """Labels of the units that go; a budget below what alignment leaves is told, and nothing goes."""
    if not channels.groups:
        return np.zeros(0, np.int64)
    try:
        plan = make_plan(model, channels, ranks.scores, ranks.dead, f"units<={share:g}%", align)
    except OutOfReach as error:
        row["plan"] = str(error)
        return np.zeros(0, np.int64)
    labels = plan.labels(channels)
    row["predicted"] = plan.costs["params"][1]
    return labels


# ---- probes --------------------------------------------------------------------------------------------------------
def probes_of(path: Path) -> list[Arrays]:
    """Inputs of each probe, in the order of the graph's inputs."""
    with np.load(path.with_suffix(".npz")) as file:
        count = sum(k.endswith("_x0") for k in file.files)
        inputs = sum(k.startswith("p0_x") for k in file.files)
        return [[file[f"p{i}_x{j}"] for j in range(inputs)] for i in range(count)]


def originals(path: Path, probes: list[Arrays]) -> tuple[list[Arrays], float]:
    """What the file itself answers, and how far onnxruntime's optimisations move that."""
    found = []
    for level in (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
        options = ort.SessionOptions()
        options.graph_optimization_level, options.log_severity_level = level, 4
        options.intra_op_num_threads = 1
        runner = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [i.name for i in runner.get_inputs()]
        found.append([runner.run(None, dict(zip(names, p, strict=True))) for p in probes])
    return found[0], apart(found[1], found[0])


def feeds(path: Path, model: Model) -> list[Feed]:
    """Inputs of each probe by name."""
    return [dict(zip(model.inputs, p, strict=True)) for p in probes_of(path)]


def answers(model: Model, feed: Feed) -> Arrays:
    """The outputs; the session of a model is made once."""
    if model not in SESSIONS:
        SESSIONS.clear()
        SESSIONS[model] = session(model.ir)
    return list(run(SESSIONS[model], feed))


SESSIONS: dict[Any, Any] = {}


def batched(model: Model, probes: list[Feed], wanted: list[Arrays]) -> float:
    """How far all probes in one batch are from each alone; 0 where the batch is fixed."""
    if model.batch != "free" or any(len(v) != 1 for p in probes for v in p.values()):
        return 0.0
    together = answers(model, {k: np.concatenate([p[k] for p in probes]) for k in probes[0]})
    return apart([together], [[np.concatenate(ys) for ys in zip(*wanted, strict=True)]])


def apart(found: list[Arrays], wanted: list[Arrays]) -> float:
    """Largest |Δ| of an output over its largest |y|; infinite where shapes differ or a number is none."""
    worst = 0.0
    for y, z in ((y, z) for f, w in zip(found, wanted, strict=True) for y, z in zip(f, w, strict=True)):
        if y.shape != z.shape or not np.isfinite(y).all():
            return float("inf")
        delta = np.abs(y.astype(np.float64) - z).max(initial=0)
        worst = max(worst, float(delta / max(np.abs(z).max(initial=0), 1e-30)))
    return worst


# ---- what kind of network, and what held it back -------------------------------------------------------------------
def family(model: Model) -> str:
    """transformer where a softmax feeds a product of two activations, else CNN where something is convolved."""
    for node in model.graph:
        if node.op_type == "Softmax" and leads_to_product(node.outputs[0], 4):
            return "transformer"
    return "CNN" if any(n.op_type in ("Conv", "ConvTranspose") for n in model.graph) else "other"


def leads_to_product(value: Any, steps: int) -> bool:
    """Whether a value reaches a MatMul of activations within a few nodes."""
    for use in value.uses():
        is_product = use.node.op_type in ("MatMul", "Einsum")
        if is_product and all(v is None or v.const_value is None for v in use.node.inputs):
            return True
        passes = use.node.op_type in ("Reshape", "Transpose", "Dropout", "Cast", "Where", "Mul", "Add")
        if steps and passes and leads_to_product(use.node.outputs[0], steps - 1):
            return True
    return False


def frozen(channels: Channels) -> dict[str, float]:
    """Reason -> share of the parameters that it holds along an axis, the largest first; node names left out."""
    held: Counter[str] = Counter()
    example: dict[str, str] = {}
    total = 0
    for value in channels.values.values():
        if value.const_value is not None and value.dtype is not None and value.dtype.is_floating_point():
            total += int(np.prod(value.const_value.shape.numpy()))
    for name, _, reason in channels.frozen():
        kind = reason if reason.startswith("it is") else " ".join(w for w in reason.split() if not w.startswith("'"))
        example.setdefault(kind, reason)
        held[kind] += int(np.prod(channels.values[name].const_value.shape.numpy()))  # type: ignore[union-attr]
    return {example[k]: round(n / max(total, 1), 3) for k, n in held.most_common(5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--criterion", choices=("magnitude", "random"), default="random")
    parser.add_argument("--align", default="off")
    parser.add_argument("--share", type=float, default=50)
    parser.add_argument("--approximate", action="store_true", help="cut widths that norms take their statistics over")
    parser.add_argument("--no-gradient", action="store_true")
    asked = parser.parse_args()
    settings = asked.criterion, asked.align, asked.share, asked.approximate, not asked.no_gradient
    print(json.dumps(case(asked.path, *settings)))


if __name__ == "__main__":
    main()
