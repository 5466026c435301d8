"""Every command that writes networks, once: what is asked for, and what its files have to say of themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from toolchain.shipped import triangles_squares_path
from toolchain.synthetic import triangles_squares

MODEL, PRUNED, HIDDEN = str(triangles_squares_path()), "p.onnx", "relu7.out"


@dataclass(frozen=True)
class Writing:
    """A command that writes networks.

    words    what is asked for, on samples x.npz
    files    {file: what it is made of}
    choices  settings that it has to tell besides command and seed
    data     what it has to tell the hash of
    """

    words: tuple[str, ...]
    files: dict[str, str]
    choices: dict[str, Any] = field(default_factory=dict)
    data: tuple[str, ...] = ()
    needs: str = ""


TRAINED = ("--data", "x.npz", "--epochs", "1", "--seed", "5")
EXPORTED = ("--calibration", "x.npz", "-o", "exported", "--seed", "5")
WRITING = {
    "prune": Writing(
        ("prune", MODEL, "--budget", "params<=60%", "-o", PRUNED, "--plan-out", "p.json", "--seed", "5"),
        {PRUNED: MODEL}, {"budget": "params<=60%", "criterion": "magnitude"},
    ),
    "prune nothing": Writing(
        ("prune", MODEL, "--budget", "units<=100%", "-o", "same.onnx", "--seed", "5"), {"same.onnx": MODEL},
        {"budget": "units<=100%"},
    ),
    "prune --plan": Writing(
        ("prune", MODEL, "--plan", "p.json", "--mask-only", "-o", "masked.onnx", "--seed", "5"),
        {"masked.onnx": MODEL}, {"mask": True},
    ),
    "prune --weightless": Writing(
        ("prune", MODEL, "--weightless", "-o", "clean.onnx", "--seed", "5"), {"clean.onnx": MODEL},
        {"weightless": True},
    ),
    "recover": Writing(
        ("recover", MODEL, PRUNED, "--plan", "p.json", "--data", "x.npz", "-o", "rec.onnx", "--seed", "5"),
        {"rec.onnx": PRUNED}, {"method": "least-squares"}, ("data", "original"),
    ),
    "retrain": Writing(
        ("retrain", PRUNED, *TRAINED, "--teacher", MODEL, "-o", "ret.onnx"), {"ret.onnx": PRUNED}, {"epochs": 1},
        ("data", "teacher"), "torch",
    ),
    "gradient": Writing(("gradient", MODEL, "--at", HIDDEN, "-o", "g.onnx"), {"g.onnx": MODEL}, {"at": HIDDEN}),
    "sparsify": Writing(
        ("sparsify", MODEL, *TRAINED, "--rounds", "1", "-o", "sparse"),
        {"sparse/round-01.onnx": MODEL, "sparse/sparse.onnx": MODEL, "sparse/model.onnx": "sparse/sparse.onnx"},
        {"share": 0.2, "epochs": 1, "round": 1}, ("data",), "torch",
    ),
    "tune": Writing(
        ("tune", MODEL, *TRAINED, "--validation", "x.npz", "--layers", "dense*", "-o", "tuned"),
        {"tuned/model.onnx": MODEL}, {"epochs": 1, "layers": "dense*"}, ("data", "validation"), "torch",
    ),
    "sweep": Writing(
        ("sweep", MODEL, "--data", "x.npz", "--budgets", "50%", "--criterion", "taylor", "--keep-files", "--runs", "0",
         "-o", "swept", "--seed", "5"),
        {f"swept/points/params-50.{end}": MODEL for end in ("onnx", "tflite")},
        {"criterion": "taylor", "budget": "params<=50%"}, ("data",),
    ),
    "export": Writing(
        ("export", PRUNED, "--to", "onnx,tflite,tflite-float16,onnx-int8", *EXPORTED),
        {f"exported/p{end}": PRUNED for end in (".onnx", ".tflite", "-float16.tflite", "-int8.onnx")}, {},
        ("calibration",),
    ),
    "export int8": Writing(
        ("export", PRUNED, "--to", "tflite-int8,tflite-int8-weights", *EXPORTED),
        {f"exported/p{end}": PRUNED for end in ("-int8.tflite", "-int8-weights.tflite")}, {}, ("calibration",),
        "ai_edge_quantizer",
    ),
    "compress": Writing(
        ("compress", MODEL, "--data", "x.npz", "--budget", "params<=60%", "--criterion", "taylor", "--runs", "0",
         "--to", "onnx,tflite,tflite-float16", "-o", "out", "--seed", "5"),
        {f"out/model{end}": MODEL for end in (".onnx", ".tflite", "-float16.tflite")}, {"budget": "params<=60%"},
        ("data",),
    ),
}  # fmt: skip


def write_all(folder: Path, **environment: str) -> Path:
    """Run each command, one after the other, on the same few samples."""
    from test_cli import jettison

    x, y = triangles_squares(8, seed=5)
    np.savez(folder / "x.npz", x=x, y=y)
    for case in (c for c in WRITING.values() if not c.needs or find_spec(c.needs)):
        done = jettison(*case.words, cwd=folder, **environment)
        assert done.returncode == 0, (case.words, done.stderr)
    return folder
