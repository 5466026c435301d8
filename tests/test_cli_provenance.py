"""Each file names what it was made of; `jettison verify` says which link is broken; the record is CycloneDX 1.6."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from test_cli import SHIPPED, jettison

from toolchain import __version__
from toolchain.synthetic import triangles_squares

HASH = re.compile(r"^([a-fA-F0-9]{32}|[a-fA-F0-9]{40}|[a-fA-F0-9]{64}|[a-fA-F0-9]{96}|[a-fA-F0-9]{128})$")
SERIAL = re.compile(r"^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")
# bom-1.6.schema.json: what an object has to have, and all that it may have; it forbids further keys
BOM = {"bomFormat", "specVersion"}, {
    "$schema", "bomFormat", "specVersion", "serialNumber", "version", "metadata", "components", "services",
    "externalReferences", "dependencies", "compositions", "vulnerabilities", "annotations", "formulation",
    "declarations", "definitions", "properties", "signature",
}  # fmt: skip
COMPONENT = {"type", "name"}, {
    "type", "mime-type", "bom-ref", "supplier", "manufacturer", "authors", "author", "publisher", "group", "name",
    "version", "description", "scope", "hashes", "licenses", "copyright", "cpe", "purl", "omniborId", "swhid", "swid",
    "modified", "pedigree", "externalReferences", "components", "evidence", "releaseNotes", "modelCard", "data",
    "cryptoProperties", "properties", "tags", "signature",
}  # fmt: skip
MODEL_PARAMETERS = set(), {
    "approach", "task", "architectureFamily", "modelArchitecture", "datasets", "inputs", "outputs",
}  # fmt: skip
TYPES = {"application", "machine-learning-model", "data"}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    x, y = triangles_squares(8, seed=5)
    path = tmp_path_factory.mktemp("data") / "samples.npz"
    np.savez(path, x=x, y=y)
    return path


@pytest.fixture(scope="module")
def made(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out"
    words = ("--budget", "params<=40%", "--criterion", "magnitude", "--no-recover", "--runs", "0", "--seed", "3")
    done = jettison("compress", SHIPPED, "--data", samples, *words, "-o", out)
    assert done.returncode == 0, done.stderr
    return out


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_artefact_tells_tool_source_settings_and_seed(made: Path, samples: Path) -> None:
    dense = sha256(Path(SHIPPED))
    told = {p.key: p.value for p in onnx.load(made / "model.onnx").metadata_props}
    plan, report = (json.loads((made / name).read_text()) for name in ("plan.json", "report.json"))
    with np.load(made / "ranks.npz") as file:
        ranks = json.loads(file["about"].tobytes())
    settings = json.loads(told["jettison.settings"])
    assert settings == plan["settings"] == report["settings"]
    assert (settings["budget"], settings["seed"], settings["criterion"]) == ("params<=40%", 3, "magnitude")
    assert (ranks["facts"]["seed"], ranks["facts"]["data_sha256"]) == (3, settings["data_sha256"])
    assert {told["jettison.source_sha256"], plan["sha256"], ranks["sha256"]} == {dense}
    assert report["models"]["before"]["sha256"] == dense
    assert told["jettison.version"] == report["tool"]["version"] == __version__
    assert plan["tool"] == ranks["tool"] == f"jettison {__version__}"
    assert plan["ranks_sha256"] == sha256(made / "ranks.npz")
    assert report["files"] == {n: sha256(made / n) for n in ("model.onnx", "model.tflite", "plan.json", "ranks.npz")}
    assert told["jettison.settings"].encode() in (made / "model.tflite").read_bytes()


def test_the_chain_of_a_run_holds(made: Path) -> None:
    done = jettison("verify", SHIPPED, made, "--format", "json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert all(r["holds"] for r in rows)
    pairs = {(r["of"], r["file"]) for r in rows}
    dense = Path(SHIPPED).name
    assert {(dense, "ranks.npz"), ("ranks.npz", "plan.json"), ("plan.json", "model.onnx")} <= pairs
    assert {("plan.json", "model.tflite"), ("model.onnx", "model.tflite"), ("model.onnx", "report.json")} <= pairs


def reranked(path: Path) -> None:
    with np.load(path) as file:
        held = {k: file[k] for k in file.files}
    held["scores0"] = held["scores0"] + 1
    np.savez(path, **held)


def replanned(path: Path) -> None:
    body = json.loads(path.read_text())
    group = next(g for g in body["groups"] if g["removed"])
    kept = set(range(group["before"])) - set(group["removed"])
    group["removed"][0] = min(kept)
    path.write_text(json.dumps(body))


def reweighted(path: Path) -> None:
    proto = onnx.load(path)
    tensor = next(t for t in proto.graph.initializer if len(t.dims) > 1)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[0] += 1
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(proto, path)


def unsigned(path: Path) -> None:
    proto = onnx.load(path)
    del proto.metadata_props[:]
    onnx.save(proto, path)


@pytest.mark.parametrize(
    ("name", "change", "link"),
    [
        ("ranks.npz", reranked, "ranks.npz -> plan.json"),
        ("plan.json", replanned, "plan.json -> model.onnx"),
        ("model.onnx", reweighted, "model.onnx -> report.json"),
        ("model.onnx", unsigned, "-> model.onnx"),
    ],
)
def test_a_file_that_was_changed_breaks_the_link_to_what_was_made_of_it(
    name: str, change: object, link: str, made: Path, tmp_path: Path
) -> None:
    shutil.copytree(made, tmp_path / "out")
    change(tmp_path / "out" / name)  # type: ignore[operator]
    done = jettison("verify", SHIPPED, tmp_path / "out", "--record", tmp_path / "bom.json")
    assert done.returncode == 1, done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1 and link in done.stderr and "make it again" in done.stderr
    assert not (tmp_path / "bom.json").exists(), "no record of a chain that does not hold"


def test_another_original_breaks_the_first_link(made: Path, tmp_path: Path) -> None:
    shutil.copy(SHIPPED, tmp_path / "other.onnx")
    reweighted(tmp_path / "other.onnx")
    done = jettison("verify", tmp_path / "other.onnx", made)
    assert done.returncode == 1 and "other.onnx -> ranks.npz" in done.stderr, done.stderr


def test_stages_one_by_one_make_a_chain_too(samples: Path, tmp_path: Path) -> None:
    steps = (
        ("rank", SHIPPED, "--data", samples, "--criterion", "taylor", "-o", "r.npz"),
        ("prune", SHIPPED, "--ranks", "r.npz", "--budget", "params<=50%", "-o", "p.onnx", "--plan-out", "p.json"),
        ("verify", SHIPPED, "p.onnx", "--plan", "p.json", "--ranks", "r.npz"),
    )
    for words in steps:
        done = jettison(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    reranked(tmp_path / "r.npz")
    done = jettison(*steps[-1], cwd=tmp_path)
    assert done.returncode == 1 and "r.npz -> p.json" in done.stderr, done.stderr


def test_the_record_has_what_cyclonedx_asks_for_and_nothing_else(made: Path, tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        done = jettison("verify", SHIPPED, made, "--record", tmp_path / name)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    bom = json.loads((tmp_path / "a.json").read_text())
    fits(bom, BOM)
    assert (bom["bomFormat"], bom["specVersion"], bom["version"]) == ("CycloneDX", "1.6", 1)
    assert SERIAL.match(bom["serialNumber"])
    assert bom["metadata"].keys() <= {"timestamp", "tools", "component", "properties"}
    listed = [*bom["components"], bom["metadata"]["component"]]
    for component in (*listed, *bom["metadata"]["tools"]["components"]):
        fits(component, COMPONENT)
        assert component["type"] in TYPES
        assert all(h.keys() == {"alg", "content"} and HASH.match(h["content"]) for h in component.get("hashes", ()))
        assert all(p.keys() == {"name", "value"} for p in component.get("properties", ()))
        assert all(isinstance(v, str) for p in component.get("properties", ()) for v in p.values())
        card = component.get("modelCard", {"modelParameters": {}})
        assert card.keys() == {"modelParameters"}
        fits(card["modelParameters"], MODEL_PARAMETERS)
        for side in card["modelParameters"].values():
            assert all(port.keys() == {"format"} and isinstance(port["format"], str) for port in side)
    refs = [c["bom-ref"] for c in listed]
    assert len(set(refs)) == len(refs), "each is named once"
    for one in bom["dependencies"]:
        assert one.keys() == {"ref", "dependsOn"} and {one["ref"], *one["dependsOn"]} <= set(refs)
        assert len(set(one["dependsOn"])) == len(one["dependsOn"])
    files = {made / n for n in ("model.onnx", "model.tflite", "plan.json", "ranks.npz", "report.json")}
    assert {c["hashes"][0]["content"] for c in listed} == {sha256(p) for p in (*files, Path(SHIPPED))}


def fits(thing: dict[str, object], shape: tuple[set[str], set[str]]) -> None:
    """It has what it has to have, and nothing that it may not have."""
    required, allowed = shape
    assert required <= thing.keys() <= allowed
