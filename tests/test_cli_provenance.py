"""Each file names what it was made of; `jettison verify` says which link is broken; the record is CycloneDX 1.6."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from test_cli import SHIPPED, jettison
from writing import MODEL, PRUNED, WRITING

from toolchain import __version__
from toolchain.cli import cli
from toolchain.synthetic import triangles_squares

NO_NETWORK = (
    "bench", "check", "doctor", "explain", "groups", "init", "inspect", "ops", "rank", "report", "targets", "verify",
)  # fmt: skip
ALIKE = {"demo": "compress"}  # commands that write by the same function


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    x, y = triangles_squares(8, seed=5)
    path = tmp_path_factory.mktemp("data") / "samples.npz"
    np.savez(path, x=x, y=y)
    return path


def told(path: Path) -> dict[str, str]:
    """What a file says of itself, read without the toolchain."""
    if path.suffix == ".onnx":
        return {p.key.removeprefix("jettison."): p.value for p in onnx.load(path).metadata_props}
    file = schema.Model.GetRootAs(path.read_bytes())
    found = [file.Metadata(i) for i in range(file.MetadataLength())]
    return {m.Name().decode(): bytes(file.Buffers(m.Buffer()).DataAsNumpy()).decode(errors="replace") for m in found}


def test_every_command_writes_networks_that_are_looked_at_here_or_none() -> None:
    writing = {c.words[0] for c in WRITING.values()}
    assert not writing & {*NO_NETWORK, *ALIKE} and set(ALIKE.values()) <= writing
    assert writing | {*NO_NETWORK, *ALIKE} == set(cli.commands)


@pytest.mark.parametrize("name", WRITING)
def test_a_written_network_tells_tool_source_settings_and_seed(name: str, written: Path) -> None:
    case = WRITING[name]
    if case.needs and not find_spec(case.needs):
        pytest.skip(f"needs {case.needs}")
    for file, source in case.files.items():
        found = told(written / file)
        settings = json.loads(found["settings"])
        assert __version__ in (found["version"] if file.endswith(".onnx") else found["tool"]), file
        assert found["source_sha256"] == sha256(written / source), file
        assert settings["command"] == case.words[0]
        assert settings["seed"] == (5 if "--seed" in case.words else 0)
        assert {k: settings[k] for k in case.choices} == case.choices
        assert all(re.fullmatch("[0-9a-f]{64}", settings[f"{of}_sha256"]) for of in case.data), file
        assert ("format" in found) == any(f in file for f in ("int8", "float16")), file


def test_a_writing_command_tells_of_every_network_that_it_leaves(written: Path) -> None:
    looked_at = {f for c in WRITING.values() for f in c.files}
    left = {str(p.relative_to(written)) for end in (".onnx", ".tflite") for p in written.rglob(f"*{end}")}
    assert left <= looked_at


def test_what_is_made_of_a_pruned_network_keeps_the_hash_of_its_plan_and_what_was_not_cut_has_none(
    written: Path,
) -> None:
    plan = told(written / PRUNED)["plan_sha256"]
    after = [f for c in WRITING.values() for f, of in c.files.items() if of == PRUNED and (written / f).exists()]
    assert len(after) > 4 and all(told(written / f)["plan_sha256"] == plan for f in after)
    assert told(written / "masked.onnx")["plan_sha256"] == plan
    assert "plan_sha256" not in told(written / "same.onnx") and "plan_sha256" not in told(written / "g.onnx")


def test_other_samples_are_told_by_another_hash_and_by_nothing_else(written: Path, tmp_path: Path) -> None:
    x, y = triangles_squares(9, seed=6)
    np.savez(tmp_path / "x.npz", x=x, y=y)
    for name in (PRUNED, "p.json"):
        shutil.copy(written / name, tmp_path / name)
    assert jettison(*WRITING["recover"].words, cwd=tmp_path).returncode == 0
    one, two = (json.loads(told(f / "rec.onnx")["settings"]) for f in (written, tmp_path))
    assert {k for k in one if one[k] != two[k]} == {"data_sha256"}


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
    assert all(r["holds"] for r in rows if r["sha256"])
    assert {r["file"] for r in rows if r["holds"] is None} == {"model.onnx"}, "recovery changes what it answers"
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


# ---- folders that any command left -----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def folders(written: Path, made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Path]]:
    """{what: (network, folder)} of what commands left, each in a folder of its own."""
    folder = tmp_path_factory.mktemp("folders")
    for name, files in {"lone": ("same.onnx",), "cut": (PRUNED, "masked.onnx"), "ret": ("ret.onnx",)}.items():
        (folder / name).mkdir()
        for file in (f for f in files if (written / f).exists()):
            shutil.copy(written / file, folder / name / file)
    shutil.copy(written / "p.json", folder / "cut" / "plan.json")
    pruned = str(written / PRUNED)
    found = {"a normalised file": (MODEL, folder / "lone"), "export": (pruned, written / "exported")}
    found |= {"a cut": (MODEL, folder / "cut"), "compress": (MODEL, made), "sweep": (MODEL, written / "swept/points")}
    if find_spec("torch"):
        found |= {"retrain": (pruned, folder / "ret"), "sparsify": (MODEL, written / "sparse")}
        found |= {"tune": (MODEL, written / "tuned")}
    return found


def verified(model: str, folder: Path, *words: Any) -> tuple[CompletedProcess[str], list[dict[str, Any]]]:
    done = jettison("verify", model, folder, "--format", "json", *words)
    return done, json.loads(done.stdout) if done.stdout else []


@pytest.fixture(scope="module")
def tables(folders: dict[str, tuple[str, Path]], made: Path) -> dict[str, list[dict[str, Any]]]:
    """What verify says of each folder, on the samples that they were made with."""
    found = {}
    for what, (model, folder) in folders.items():
        done, found[what] = verified(model, folder)
        assert done.returncode == 0, (what, done.stderr)
    return found


def test_what_each_command_leaves_is_verified_as_far_as_it_is_there(
    folders: dict[str, tuple[str, Path]], tables: dict[str, list[dict[str, Any]]]
) -> None:
    for what, rows in tables.items():
        folder = folders[what][1]
        networks = {p.name for p in folder.iterdir() if p.suffix in (".onnx", ".tflite")}
        assert networks <= {r["file"] for r in rows if r["sha256"]}, what
        assert all(r["holds"] for r in rows if r["sha256"]), what
        missing = {r["file"] for r in rows if r["note"] == "not there"}
        assert missing == {n for n in ("ranks.npz", "plan.json", "report.json") if not (folder / n).exists()}, what
        answers = {r["file"]: r for r in rows if not r["sha256"] and not r["note"].startswith(("no ", "not there"))}
        assert answers.keys() == networks, what
        for row in answers.values():
            is_run = row["off by"] is not None or row["same answer %"] is not None
            assert is_run == (row["holds"] is True) and (is_run or row["note"].startswith("hash only: ")), row


def test_emitted_and_cut_files_are_run_and_trained_ones_are_not(
    folders: dict[str, tuple[str, Path]], tables: dict[str, list[dict[str, Any]]]
) -> None:
    exported = {p.name for p in folders["export"][1].iterdir()}
    expected = {
        "a normalised file": {"same.onnx"}, "a cut": {PRUNED, "masked.onnx"}, "compress": {"model.tflite"},
        "sweep": {"params-50.tflite"}, "retrain": set(), "tune": set(), "export": exported,
    }  # fmt: skip
    for what in expected.keys() & tables.keys():
        assert {r["file"] for r in tables[what] if r["holds"] and not r["sha256"]} == expected[what], what
    quantised = {r["file"] for r in tables["export"] if r["same answer %"] is not None}
    assert quantised == {n for n in exported if "int8" in n or "float16" in n}


@pytest.mark.parametrize("name", ["p.onnx", "p.tflite", "p-float16.tflite", "p-int8.onnx", "p-int8.tflite"])
def test_an_emitted_file_of_the_right_words_and_other_weights_is_found_by_its_answers(
    name: str, written: Path, tmp_path: Path
) -> None:
    if not (written / "exported" / name).exists():
        pytest.skip("needs ai_edge_quantizer")
    shutil.copy(written / "exported" / name, tmp_path / name)
    (negated_lite if name.endswith(".tflite") else negated)(tmp_path / name)
    done, rows = verified(str(written / PRUNED), tmp_path, "--data", written / "x.npz")
    assert done.returncode == 1 and f"{name} differs from" in done.stderr, (rows, done.stderr)


def negated(path: Path) -> None:
    """The weights of the last layer with the other sign."""
    proto = onnx.load(path)
    (tensor,) = (t for t in proto.graph.initializer if t.name in ("dense2.weight", "dense2.weight_quantized"))
    values = onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.negative(np.maximum(values, -127)), tensor.name))
    onnx.save(proto, path)


def negated_lite(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    file = schema.Model.GetRootAs(raw)
    graph = file.Subgraphs(0)
    tensors = [graph.Tensors(i) for i in range(graph.TensorsLength())]
    stored = [t for t in tensors if file.Buffers(t.Buffer()).DataLength()]
    (tensor,) = (t for t in stored if t.Name().startswith(b"dense2.weight"))
    held = file.Buffers(tensor.Buffer()).DataAsNumpy().tobytes()
    kinds = {schema.TensorType.FLOAT32: "<f4", schema.TensorType.FLOAT16: "<f2", schema.TensorType.INT8: "i1"}
    values = np.frombuffer(held, kinds[tensor.Type()])
    assert raw.count(held) == 1
    path.write_bytes(raw.replace(held, np.negative(np.maximum(values, -127)).tobytes()))


@pytest.mark.parametrize("key", ["models", "files"])
def test_a_report_that_tells_nothing_in_the_place_of_a_table_breaks_the_chain(
    key: str, made: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(made, tmp_path / "out"))
    told = json.loads((out / "report.json").read_text())
    (out / "report.json").write_text(json.dumps(told | {key: []}))
    done = jettison("verify", SHIPPED, out)
    assert done.returncode == 1 and "the chain breaks at" in done.stderr, done.stderr


def test_a_file_that_a_report_lists_and_that_is_gone_breaks_the_chain(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "out")
    (tmp_path / "out" / "plan.json").unlink()
    done, _ = verified(MODEL, tmp_path / "out")
    assert done.returncode == 1 and "plan.json -> report.json" in done.stderr and "not there" in done.stderr


def test_a_folder_without_files_of_a_network_is_refused_in_one_line(tmp_path: Path) -> None:
    done, _ = verified(MODEL, tmp_path)
    assert done.returncode == 3 and len(done.stderr.splitlines()) == 1, done.stderr


# ---- the record ------------------------------------------------------------------------------------------------------
def test_the_record_keeps_to_the_schema_of_cyclonedx(folders: dict[str, tuple[str, Path]], tmp_path: Path) -> None:
    schemas = pytest.importorskip(
        "cyclonedx.validation.json", reason="needs the schema: pip install 'cyclonedx-python-lib[json-validation]'"
    )
    from cyclonedx.schema import SchemaVersion

    validator = schemas.JsonStrictValidator(SchemaVersion.V1_6)
    for what, (model, folder) in folders.items():
        path = tmp_path / f"{what}.json"
        done = jettison("verify", model, folder, "--record", path)
        assert done.returncode == 0, done.stderr
        assert validator.validate_str(path.read_text()) is None, what
    broken = json.loads(path.read_text()) | {"serialNumber": "1"}
    assert validator.validate_str(json.dumps(broken)) is not None, "the schema is asked"


def test_the_record_lists_each_file_once_and_is_the_same_again(made: Path, tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        done = jettison("verify", SHIPPED, made, "--record", tmp_path / name)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    bom = json.loads((tmp_path / "a.json").read_text())
    listed = [*bom["components"], bom["metadata"]["component"]]
    refs = [c["bom-ref"] for c in listed]
    assert len(set(refs)) == len(refs), "each is named once"
    assert all({one["ref"], *one["dependsOn"]} <= set(refs) for one in bom["dependencies"])
    files = {made / n for n in ("model.onnx", "model.tflite", "plan.json", "ranks.npz", "report.json")}
    assert {c["hashes"][0]["content"] for c in listed} == {sha256(p) for p in (*files, Path(SHIPPED))}
