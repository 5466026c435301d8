"""Every command that writes: its words, in a folder of its own beside in/, and what it leaves there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.faults import standins

DATA = ("--data", "../in/samples.npz")
BUDGET = ("--budget", "params<=40%")
PLAN = ("--plan", "../in/plan.json")
QUICK = ("--steps", "4", "--samples", "8")
EPOCHS = ("--epochs", "3", "--batch", "4")
KEPT = {"toolchain.retrain.checkpoint.PAUSE": 0}


@dataclass(frozen=True)
class Save:
    """A command that writes, in a folder of its own beside in/, and what it leaves there.

    needs    a package that may not be installed
    goes_on  globs of files from which a run that could not write goes on
    given    {variable of a module: value}, so that a short run keeps what it has as often as a long one
    outside  {environment variable: value}, in which {work} is the folder above
    refusal  exit code of a run that cannot write
    reads    a file of in/ that has to be in its own folder
    """

    words: tuple[str, ...]
    results: tuple[str, ...]
    needs: str = ""
    goes_on: tuple[str, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict)
    outside: Mapping[str, str] = field(default_factory=dict)
    refusal: int = 3
    reads: str = ""


SAVES = {
    "prune": Save(
        ("prune", "../in/model.onnx", *BUDGET, "-o", "pruned.onnx", "--plan-out", "plan.json"),
        ("pruned.onnx", "plan.json"),
    ),
    "gradient": Save(("gradient", "../in/model.onnx", "--at", "flatten.out", "-o", "g.onnx"), ("g.onnx",)),
    "init": Save(("init", "../in/model.onnx", "-o", "jettison.toml"), ("jettison.toml",)),
    "check": Save(
        ("check", "--config", "../in/jettison.toml", "--save-baseline", "base.json", "--report", "junit=check.xml"),
        ("base.json", "check.xml"),
    ),
    "rank": Save(
        ("rank", "../in/model.onnx", *DATA, *QUICK, "--layers", "dense1", "-o", "ranks.npz"),
        ("ranks.npz",),
        goes_on=("ranks.npz.partial/cut*.npz",),
        given={
            "toolchain.compress.chunks.MOST_SAMPLES": 2,
            "toolchain.compress.chunks.LEAST_ROWS": 1,
            "toolchain.compress.chunks.SAVED_EVERY": 0,
        },
    ),
    "recover": Save(
        ("recover", "../in/model.onnx", "../in/pruned.onnx", *PLAN, *DATA, "-o", "recovered.onnx"), ("recovered.onnx",)
    ),
    "verify": Save(
        ("verify", "../in/model.onnx", "../in/pruned.onnx", *PLAN, "--record", "bom.json"), ("bom.json",)
    ),
    "export": Save(
        ("export", "../in/model.onnx", "--to", "onnx,tflite", "-o", "."), ("model.onnx", "model.tflite")
    ),
    "export int8": Save(
        ("export", "../in/model.onnx", "--to", "tflite-int8", "--calibration", "../in/samples.npz", "-o", "."),
        ("model-int8.tflite",),
        "ai_edge_quantizer",
    ),
    "retrain": Save(
        ("retrain", "../in/pruned.onnx", *DATA, *EPOCHS, "-o", "trained.onnx", "--checkpoint", "run.pt",
         "--history", "history.json"),
        ("trained.onnx", "history.json"),
        "torch",
        ("run.pt",),
        KEPT,
    ),
    "sparsify": Save(
        ("sparsify", "../in/model.onnx", *DATA, "--epochs", "1", "--rounds", "2", "--share", "60%", "-o", "."),
        ("model.onnx", "sparse.onnx", "plan.json", "rounds.json"),
        "torch",
        ("series.json", "round-*"),
        KEPT,
    ),
    "tune": Save(
        ("tune", "../in/model.onnx", *DATA, "--validation", "../in/samples.npz", "--layers", "conv1", "--epochs", "1",
         "--max-drop", "100", "-o", "."),
        ("model.onnx", "plan.json", "tune.json"),
        "torch",
    ),
    "bench": Save(
        ("bench", "../in/model.onnx", "--runs", "1", "--warmup", "0", "--save", "bench.json"), ("bench.json",)
    ),
    "compress": Save(
        ("compress", "../in/model.onnx", *DATA, *BUDGET, *QUICK, "--criterion", "magnitude", "--no-recover",
         "--runs", "0", "-o", "."),
        ("model.onnx", "model.tflite", "plan.json", "ranks.npz", "report.json", "report.html"),
    ),
    "compress int8": Save(
        ("compress", "../in/model.onnx", *DATA, *BUDGET, *QUICK, "--criterion", "magnitude", "--retrain", "1",
         "--runs", "0", "--to", "onnx,tflite-int8", "-o", "."),
        ("model.onnx", "model-int8.tflite", "plan.json", "ranks.npz", "report.json", "report.html"),
        "ai_edge_quantizer",
    ),
    "sweep": Save(
        ("sweep", "../in/model.onnx", *DATA, "--budgets", "50%", "--criterion", "magnitude", "--no-recover",
         "--runs", "0", "--keep-files", "-o", "."),
        ("sweep.json", "sweep.csv", "sweep.svg", "sweep.png", "points/params-50.onnx", "points/params-50.tflite"),
    ),
    "explain": Save(
        ("explain", "../in/model.onnx", *DATA, *QUICK, "--figures", "prune-curve", "--orders", "1", "-o", "."),
        ("figures.json", "index.html"),
    ),
    "report": Save(("report", "."), ("report.html",), reads="report.json"),
    "targets": Save(
        ("targets", "setup", "qemu-user-a53"),
        (),
        goes_on=("jettison/boards/*",),
        given={"targets.rootfs.ARCHITECTURES": standins.BOARD, "targets.fetching.KEYRING": Path("../in/keyring.gpg")},
        outside={
            "XDG_CACHE_HOME": "{work}/out",
            "PATH": f"{{work}}/in/bin:{os.environ['PATH']}",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": "{work}/in/wheels",
        },
        refusal=6,
    ),
}  # fmt: skip
