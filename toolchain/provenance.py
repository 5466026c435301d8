"""What a network says of where it comes from, in its file's metadata: tool, source, plan, and what was asked for.

A command names what decides its result on the model that it read (`asked`); stages hand that on, and what is written is
`signed`. Nothing in it depends on when or where that was done.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from toolchain import __version__
from toolchain.data import Samples, sha256_of
from toolchain.model import Model

KEYS = {k: f"jettison.{v}" for k, v in {
    "tool": "version", "source_sha256": "source_sha256", "plan_sha256": "plan_sha256", "settings": "settings",
    "format": "format",
}.items()}  # fmt: skip


def changed(record: Any) -> dict[str, Any]:
    """The fields of a record that are not as they are by default."""
    fields = dataclasses.fields(record)
    return {f.name: v for f in fields if (v := getattr(record, f.name)) != f.default}


def deciding(
    command: str, seed: int, choices: Mapping[str, Any], sources: Mapping[str, Samples | Model | None]
) -> dict[str, Any]:
    """What decides a command's result: its seed, the choices that were made, and the hashes of what it reads.

    choices  None and () are those that were not made
    """
    made = {k: v for k, v in choices.items() if v is not None and v != ()}
    hashes = {
        f"{k}_sha256": s.sha256 if isinstance(s, Model) else sha256_of(s) for k, s in sources.items() if s is not None
    }
    return {"command": command, "seed": seed} | made | hashes


def asked(model: Model, settings: Mapping[str, Any]) -> Model:
    """The model with what decides the result of a command, for whatever is made of it to tell."""
    return dataclasses.replace(model, settings=json.dumps(settings))


def signed(model: Model, plan_sha256: str | None = None, form: str = "") -> Model:
    """The model whose file tells tool, source, plan and settings, and nothing of what its source was asked for.

    plan_sha256  of the units that it lacks, "" where it lacks none; None: what its source says
    form         of a quantised file: a format of `export`
    """
    clone = model.ir.clone()
    clone.metadata_props.clear()
    clone.metadata_props.update(signature(model, plan_sha256, form))
    return model.with_ir(clone)


def signature(model: Model, plan_sha256: str | None = None, form: str = "") -> dict[str, str]:
    """The metadata of such a file."""
    before = model.ir.metadata_props
    said = {
        "tool": __version__,
        "source_sha256": model.sha256,
        "plan_sha256": before.get(KEYS["plan_sha256"], "") if plan_sha256 is None else plan_sha256,
        "settings": model.settings,
        "format": form,
    }
    others = {name: text for name, text in before.items() if name not in KEYS.values()}
    return others | {KEYS[k]: text for k, text in said.items() if text}


def told(metadata: Mapping[str, str]) -> dict[str, str]:
    """What the metadata of an ONNX file says of where it comes from."""
    return {k: metadata[name] for k, name in KEYS.items() if name in metadata}
