"""Quantised files as people ask for them: what is written, what is told, what is refused."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from test_cli import SHIPPED, jettison

from toolchain.synthetic import triangles_squares

pytestmark = pytest.mark.skipif(
    find_spec("ai_edge_quantizer") is None, reason="needs ai-edge-quantizer: pip install -e .[int8]"
)
FORMS = ("tflite-int8", "tflite-int8-weights", "tflite-float16", "onnx-int8")
FILES = [f"triangles_squares{end}" for end in ("-int8.tflite", "-int8-weights.tflite", "-float16.tflite", "-int8.onnx")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with calibration.npz, labelled.npz and what cannot calibrate anything."""
    folder = tmp_path_factory.mktemp("data")
    x, y = triangles_squares(64, seed=5)
    np.savez(folder / "calibration.npz", x=x)
    np.savez(folder / "dim.npz", x=x / 50)
    np.savez(folder / "bright.npz", x=3 * x)
    np.savez(folder / "nan.npz", x=np.where(x > 0.5, np.nan, x))
    np.savez(folder / "small.npz", x=x[:, :, :16])
    np.savez(folder / "none.npz", x=x[:0])
    x, y = triangles_squares(96, seed=6)
    np.savez(folder / "labelled.npz", x=x, y=y)
    return folder


def test_export_writes_and_judges_every_format(data: Path, tmp_path: Path) -> None:
    done = jettison(
        "export", SHIPPED, "--to", ",".join(FORMS), "--calibration", data / "calibration.npz",
        "--data", data / "labelled.npz", "--max-drop", "2", "--format", "json", "-o", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["quantised"]
    assert [(r["format"], r["path"]) for r in rows] == list(zip(FORMS, FILES, strict=True))
    for r in rows:
        assert r["bytes"] == (tmp_path / r["path"]).stat().st_size
        (judged,) = r["judged"]
        assert judged["n"] == 96 and judged["same_answer"] >= 0.95 and judged["before"] > 0.9
        assert r["drop_points"] == pytest.approx(100 * (judged["before"] - judged["after"]))
        assert r["passed"] and r["layers"] and not r["float_ops"]
    assert [r["calibration"] and r["calibration"]["n"] for r in rows] == [64, 64, None, 64]


def test_a_file_that_loses_too_much_is_not_written(data: Path, tmp_path: Path) -> None:
    """Calibrated on images that are almost black, the file saturates on real ones."""
    done = jettison(
        "export", SHIPPED, "--to", "tflite,tflite-int8", "--calibration", data / "dim.npz",
        "--data", data / "labelled.npz", "--max-drop", "1", "-o", tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert "triangles_squares-int8.tflite" in done.stderr and "points lost" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["triangles_squares.tflite"]


def test_saturated_activations_are_warned_of(data: Path, tmp_path: Path) -> None:
    done = jettison(
        "export", SHIPPED, "--to", "tflite-int8", "--calibration", data / "calibration.npz",
        "--data", data / "bright.npz", "-o", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "warning" in done.stderr and "beyond the calibrated range" in done.stderr and "image" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--to", "tflite-int8"], 2, "needs calibration samples"),
        (["--to", "onnx-int8", "--data", "labelled.npz"], 2, "--calibration"),
        (["--to", "tflite-int4"], 2, "tflite-int8"),
        (["--to", "tflite", "--max-drop", "1"], 2, "--max-drop"),
        (["--to", "tflite-float16", "--max-drop", "1"], 2, "labels"),
        (["--to", "tflite-int8", "--calibration", "nan.npz"], 3, "NaN"),
        (["--to", "tflite-int8", "--calibration", "small.npz"], 3, "the model wants"),
        (["--to", "tflite-int8", "--calibration", "none.npz"], 3, "no samples"),
        (["--to", "tflite-int8", "--calibration", "missing.npz"], 3, "missing.npz"),
    ],
)
def test_what_cannot_be_quantised_is_one_line_and_no_file(
    words: list[str], code: int, told: str, data: Path, tmp_path: Path
) -> None:
    done = jettison("export", SHIPPED, *words, "-o", tmp_path / "out", cwd=data)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (code, 1), done.stderr
    assert told in done.stderr
    assert not list((tmp_path / "out").glob("*"))


def test_compress_reports_the_quantised_file(data: Path, tmp_path: Path) -> None:
    done = jettison(
        "compress", SHIPPED, "--data", data / "calibration.npz", "--validation", data / "labelled.npz",
        "--budget", "params<=60%", "--criterion", "l2", "--runs", "0", "--to", "onnx,tflite,tflite-int8",
        "--max-drop", "3", "-o", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    (row,) = report["quantised"]
    assert row["path"] == "model-int8.tflite" and row["bytes"] == (tmp_path / row["path"]).stat().st_size
    assert [j["data"] for j in row["judged"]] == ["labelled.npz"]
    assert any("model-int8.tflite" in c["name"] and c["passed"] for c in report["checks"])
    page = (tmp_path / "report.html").read_text()
    assert "model-int8.tflite" in page and row["layers"][0]["tensor"] in page
    assert "wrote" in done.stdout and "model-int8.tflite" in done.stdout


def test_a_sweep_quantises_nothing(data: Path, tmp_path: Path) -> None:
    words = ("--data", data / "labelled.npz", "--to", "onnx,tflite-int8", "-o", tmp_path / "out")
    done = jettison("sweep", SHIPPED, *words)
    assert done.returncode == 2 and "jettison export" in done.stderr
