"""Sound files of every kind that commands read, small enough that thousands of mutants take minutes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, helper, numpy_helper, parser

from benchmarks.fuzz import choices_of
from benchmarks.fuzz_nets import network
from benchmarks.hostile.children import ROOT, Runner

CHAIN = "chain-"  # begins the names of files that lie in one folder, and tell of each other
DRAWS = 24  # networks over the op table
MAIN = "conv.onnx"  # the one that data, ranks, plans and rows belong to
WRITTEN = {  # networks of a few lines, with the parameters that they name
    MAIN: (
        """<ir_version: 10, opset_import: ["": 20]> net (float[N, 1, 8, 8] x) => (float[N, 3] y) {
            [c1] a = Conv <pads = [1, 1, 1, 1]> (x, W1, b1)  [r1] b = Relu (a)
            [c2] c = Conv <pads = [1, 1, 1, 1]> (b, W2)  [n2] d = BatchNormalization (c, s, t, m, v)
            [r2] e = Relu (d)  [p2] f = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (e)
            [fl] g = Flatten (f)  [g3] h = Gemm <transB = 1> (g, W3, b3)  [r3] i = Relu (h)  [g4] y = Gemm (i, W4)
        }""",
        {"W1": (8, 1, 3, 3), "b1": (8,), "W2": (8, 8, 3, 3), "s": (8,), "t": (8,), "m": (8,), "v": (8,)}
        | {"W3": (12, 128), "b3": (12,), "W4": (12, 3)},
    ),
    "old.onnx": (
        """<ir_version: 4, opset_import: ["": 9]> net (float[1, 2, 6, 6] x) => (float[1, 2, 12, 12] y) {
            [c1] a = Conv <pads = [1, 1, 1, 1]> (x, W1)  [l] b = LeakyRelu <alpha = 0.1> (a)
            [u] c = Upsample <mode = "nearest"> (b, u2)  [c2] y = Conv <kernel_shape = [1, 1]> (c, W2)
        }""",
        {"W1": (4, 2, 3, 3), "W2": (2, 4, 1, 1), "u2": np.array([1, 1, 2, 2], np.float32)},
    ),
    "shapes.onnx": (
        """<ir_version: 10, opset_import: ["": 20]> net (float[N, 4, 6] x) => (float[N, K] y) {
            one = Constant <value_ints = [-1]> ()  zero = Constant <value_int = 0> ()
            [m] a = MatMul (x, W1)  [sh] s = Shape (a)  [ga] n = Gather (s, zero)  [un] n1 = Unsqueeze (n, z1)
            [cc] to = Concat <axis = 0> (n1, one)  [re] b = Reshape (a, to)  [sl] c = Slice (b, z1, o1, o1)
            [ti] d = Tile (c, t2)  [ex] e = Expand (d, e2)  [rl] r = Relu (e)  [md] y = MatMul (r, W2)
        }""",
        {"W1": (6, 5), "W2": (2, 3), "z1": np.array([0]), "o1": np.array([1]), "t2": np.array([1, 2])}
        | {"e2": np.array([1, 1])},
    ),
    "branches.onnx": (
        """<ir_version: 10, opset_import: ["": 20, "own": 1]> net (float[N, 4] x) => (float[N, 3] y) {
            [g1] a = Gemm (x, W1)  [f] b = own.twice (a)
            [if] c = If (yes) <then_branch = t () => (p) { p = Relu (b) }, else_branch = e () => (q) { q = Neg (b) }>
            [lo] d = Loop (three, yes, c) <body = l (int64 i, bool go, z) => (on, w) { on = Identity (go)
                w = Tanh (z) }>
            [g2] y = Gemm (d, W2)
        }
        <domain: "own", opset_import: ["": 20]> twice (u) => (v) { v = Add (u, u) }""",
        {"W1": (4, 6), "W2": (6, 3), "yes": np.array(True), "three": np.array(3)},
    ),
    "attention.onnx": (
        """<ir_version: 10, opset_import: ["": 20]> net (float[N, 5, 8] x) => (float[N, 5, 8] y) {
            [q] q = MatMul (x, Wq)  [k] k = MatMul (x, Wk)  [v] v = MatMul (x, Wv)
            [rq] q4 = Reshape (q, heads)  [rk] k4 = Reshape (k, heads)  [rv] v4 = Reshape (v, heads)
            [tq] qt = Transpose <perm = [0, 2, 1, 3]> (q4)  [tk] kt = Transpose <perm = [0, 2, 3, 1]> (k4)
            [tv] vt = Transpose <perm = [0, 2, 1, 3]> (v4)
            [s] s = MatMul (qt, kt)  [p] p = Softmax (s)  [o] o = MatMul (p, vt)
            [to] ot = Transpose <perm = [0, 2, 1, 3]> (o)  [ro] o3 = Reshape (ot, back)  [w] w = MatMul (o3, Wo)
            [l] y = LayerNormalization (w, g, b)
        }""",
        {"Wq": (8, 8), "Wk": (8, 8), "Wv": (8, 8), "Wo": (8, 8), "g": (8,), "b": (8,)}
        | {"heads": np.array([0, 5, 2, 4]), "back": np.array([0, 5, 8])},
    ),
    "recurrent.onnx": (
        """<ir_version: 10, opset_import: ["": 20]> net (float[5, 1, 3] x) => (float[5, 1, 2] y) {
            [l] a, h, c = LSTM <hidden_size = 4> (x, W, R, B)  [s] b = Squeeze (a, o1)  [m] y = MatMul (b, W2)
        }""",
        {"W": (1, 16, 3), "R": (1, 16, 4), "B": (1, 32), "W2": (4, 2), "o1": np.array([1])},
    ),
}


def parsed(name: str) -> onnx.ModelProto:
    """A network of WRITTEN; those of its parameters that are given as shapes are drawn."""
    text, shapes = WRITTEN[name]
    proto, generator = parser.parse_model(text), np.random.default_rng(0)
    for key, given in shapes.items():
        drawn = given if isinstance(given, np.ndarray) else generator.uniform(0.1, 1, given).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(drawn, key))
    return proto


def outside() -> onnx.ModelProto:
    """MAIN with its parameters in w.bin, whose bytes are to lie beside it."""
    proto = parsed(MAIN)
    at = 0
    for tensor in proto.graph.initializer:
        size = len(tensor.raw_data)
        external_data_helper.set_external_data(tensor, "w.bin", at, size)
        at += size
    return proto


def halved() -> onnx.ModelProto:
    """x [N, 4] -> Gemm in float16, by typed data instead of bytes."""
    weights = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float16)
    held = TensorProto(name="W", data_type=TensorProto.FLOAT16, dims=weights.shape)
    held.int32_data.extend(weights.view(np.uint16).ravel().tolist())
    nodes = [helper.make_node("Gemm", ["x", "W"], ["y"])]
    sides = [[helper.make_tensor_value_info(n, TensorProto.FLOAT16, ["N", s])] for n, s in (("x", 4), ("y", 3))]
    graph = helper.make_graph(nodes, "half", *sides, [held])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


BUDGETS = """[model]
path = "conv.onnx"
input = { x = [1, 1, 8, 8] }
classes = ["a", "b", "c"]
[data]
calibration = "data.npz"
[prune]
budget = "params<=30%"
align = "auto"
keep = ["*/head/*"]
[[budget]]
model = "conv.onnx"
flash = "16 MiB"
ram = "8 MiB"
params = 4_000_000
macs = 4e6
regress = { flash = "2%", baseline = "baseline.json" }
"""


def write_seeds(folder: Path) -> dict[str, Path]:
    """Every sound file by its name, in a folder that holds all of what it needs."""
    nets = {name: parsed(name) for name in WRITTEN} | {"half.onnx": halved()}
    nets |= {f"random{d}.onnx": network(choices_of(0, d)).proto() for d in range(DRAWS)}
    for name, proto in nets.items():
        (folder / name).write_bytes(proto.SerializeToString())
    (folder / "outside.onnx").write_bytes(outside().SerializeToString())
    (folder / "w.bin").write_bytes(b"".join(t.raw_data for t in nets[MAIN].graph.initializer))
    generator = np.random.default_rng(1)
    np.savez(
        folder / "data.npz",
        x=generator.standard_normal((12, 1, 8, 8)).astype(np.float32),
        y=np.arange(12) % 3,
        classes=np.array(["a", "b", "c"]),
    )
    (folder / "budgets.toml").write_text(BUDGETS)  # no jettison.toml: what it says would be taken for every model here
    shutil.copy(ROOT / "targets" / "boards" / "stm32h7.toml", folder / "board.toml")
    row = {"model": MAIN, "grade": "measured", "threads": 1, "ns": {"p50": 1e6}, "runtime": "ort", "target": "local"}
    (folder / "row.json").write_text(json.dumps([row]))
    commands = (
        f"rank {MAIN} --data data.npz --criterion taylor -o ranks.npz",
        f"prune {MAIN} --budget units<=50% -o pruned.onnx --plan-out plan.json",
        f"export {MAIN} --to tflite -o .",
        f"export {MAIN} --to tflite-int8 --calibration data.npz -o .",
        "check --config budgets.toml --save-baseline baseline.json",
        f"bench {MAIN} --runs 2 --warmup 1 --save rows.json",
        f"compress {MAIN} --data data.npz --criterion activation --budget units<=50% --runs 1 --to onnx -o made",
        f"explain {MAIN} --data data.npz --figures findings --orders 1 --steps 2 -o made",
    )
    with Runner() as runner:
        for command in commands:
            done = runner.run(command.split(), folder, seconds=60)
            if done.code != 0:
                raise RuntimeError(f"{command}: {done.stderr}")
    for path in (folder / "made").glob("[!f]*.[jno]*"):  # what compress left: report, plan, ranks and network
        shutil.copy(path, folder / f"{CHAIN}{path.name}")
    for name in ("report.json", "findings.json"):
        (folder / "made" / name).rename(folder / name)
    shutil.rmtree(folder / "made")
    return {p.name: p for p in sorted(folder.iterdir())}
