"""Quantised files of trained networks, dense and with half of their parameters: answers, accuracy, bytes, time.

    python -m benchmarks.int8 --nets-folder RUNS/nets --msl RUNS/msl5 [RUNS/jpl] [--seeds 0 1] [--json FILE]

MNIST networks come from `criteria_nets`, rover networks from `reproduce.train_msl5`, each in a folder with its samples.
At most 512 training images calibrate; nothing is chosen on the test set, which is told beside
validation. Same answer is the share of images whose largest output is the float network's. Two rows are not ours:
onnxruntime's static QDQ (`onnx-int8`), and ai-edge-quantizer as it comes, by its own calibration.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.criteria_nets import Splits, nets, rover_files
from toolchain.compress.criteria import rank
from toolchain.compress.evidence import Evidence
from toolchain.compress.groups import analyse
from toolchain.compress.plan import make_plan
from toolchain.compress.recover import recover
from toolchain.compress.surgery import prune
from toolchain.data import Samples
from toolchain.emit.quantise import QUANTISED, outputs, quantise
from toolchain.emit.run import onnx_outputs
from toolchain.emit.tflite import LiteModel, to_tflite
from toolchain.model import Model, load

ALONE = "ai-edge-quantizer"
FORMS = (*QUANTISED, ALONE)
CALIBRATION = 512


def cases(asked: argparse.Namespace) -> Iterator[tuple[str, Path, Splits]]:
    """Networks with their images."""
    if asked.nets_folder:
        about = nets(None)["mnist"]
        for seed in asked.seeds:
            yield f"mnist-{seed}", about.file(asked.nets_folder, seed), about.splits(seed)
    for folder in asked.msl:
        yield folder.name, folder / "msl5.onnx", rover_files(folder)


def halved(model: Model, calibration: Samples) -> Model:
    """The network without half of its parameters, by L2 norm, recovered on the calibration images."""
    channels = analyse(model)
    assert calibration.labels is not None
    ranks = rank("l2", Evidence(model, channels, calibration.inputs, calibration.labels))
    plan = make_plan(model, channels, ranks.scores, ranks.dead, "params<=50%", "4")
    removed = plan.labels(channels)
    cut = prune(model, channels, removed)
    return recover(model, cut, channels, removed, calibration.inputs)[0]


def alone(lite: LiteModel, calibration: Samples) -> bytes:
    """What ai-edge-quantizer makes of the float file with its own calibration and rounding."""
    from ai_edge_quantizer import quantizer, recipe

    quantiser = quantizer.Quantizer(bytearray(lite.data), recipe.static_wi8_ai8())
    turned = {k: x.transpose(lite.inputs[k]) for k, x in calibration.inputs.items()}
    rows = [{k: np.ascontiguousarray(x[i : i + 1]) for k, x in turned.items()} for i in range(len(calibration))]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        found = quantiser.calibrate({"serving_default": rows}, num_threads=1)
        return bytes(quantiser.quantize(found).quantized_model or b"")


def row(
    model: Model, form: str, calibration: Samples, sets: dict[str, Samples], floats: dict[str, Any]
) -> dict[str, Any]:
    """Everything that is told about one file."""
    begun = time.perf_counter()
    told: dict[str, Any] = {"float_ops": None, "worst": None}
    if form == ALONE:
        source, data = "tflite", alone(to_tflite(model), calibration)
    else:
        made = quantise(model, form, calibration.inputs, sets["validation"].inputs)
        source, data = QUANTISED[form].source, made.data
        told = {"float_ops": list(made.float_ops), "worst": made.layers[0] if made.layers else None}
    told |= {"bytes": len(data), "seconds": round(time.perf_counter() - begun, 2)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"quantised.{source}")
        path.write_bytes(data)
        for name, samples in sets.items():
            (y,), (z,) = floats[name].values(), outputs(path, samples.inputs).values()
            before, after = y.argmax(axis=1), z.argmax(axis=1)
            told[name] = {
                "n": len(samples),
                "before": float((before == samples.labels).mean()),
                "after": float((after == samples.labels).mean()),
                "same_answer": float((before == after).mean()),
                "off_by": float(np.linalg.norm(z - y) / np.linalg.norm(y)),
            }
    return told


def line(found: dict[str, Any]) -> str:
    """A row of the table."""
    cells = [found["network"], found["form"], f"{found['bytes']:,}", f"{found['seconds']:.1f}"]
    for name in ("validation", "test"):
        s = found[name]
        cells += [f"{100 * s['before']:.2f} → {100 * s['after']:.2f}", f"{100 * s['same_answer']:.2f}"]
    return "| " + " | ".join([*cells, f"{100 * found['test']['off_by']:.2f}"]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets-folder", type=Path, help="where criteria_nets wrote the MNIST networks")
    parser.add_argument("--msl", type=Path, nargs="*", default=[], help="folders with msl5.onnx and its samples")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--json", type=Path, help="a file to append rows to")
    asked = parser.parse_args()
    print("| network | file | bytes | s | validation accuracy % | same % | test accuracy % | same % | off by % |")
    print("|---" * 9 + "|")
    for name, path, splits in cases(asked):
        dense = load(path)
        (image,) = dense.inputs
        of = lambda split, label, image=image: Samples(label, {image: split.x}, split.y.astype(np.int64))
        sets = {k: of(getattr(splits, k), k) for k in ("validation", "test")}
        calibration = of(splits.train, "train").balanced(CALIBRATION, 0)
        for label, model in ((name, dense), (f"{name}, half", halved(dense, calibration))):
            floats = {k: onnx_outputs(model, s.inputs) for k, s in sets.items()}
            for form in asked.forms:
                found = {"network": label, "form": form, **row(model, form, calibration, sets, floats)}
                print(line(found), flush=True)
                if asked.json:
                    with asked.json.open("a") as file:
                        file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
