"""A record of a network and of what it was made of, as a machine-learning bill of materials: CycloneDX 1.6, in JSON.

The same files give the same record: it has no time stamp, and its serial number is made of their hashes.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from toolchain import __version__
from toolchain.model import Model
from toolchain.pipeline.chain import NETWORKS, Artefact, Chain

SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
TOLD = ("tool", "settings", "source_sha256", "plan_sha256", "ranks_sha256", "format")
Json = dict[str, Any]


def record(chain: Chain, models: Mapping[str, Model]) -> Json:
    """The record: the first network that was made, what it was made of, and all others; equal files are one.

    models  file name -> network, of those whose inputs and outputs are to be told
    """
    files = list({f.sha256: f for f in (*chain.networks, chain.dense, *chain.files)}.values())
    subject, *others = files
    made_of = [(f, origins(chain, f)) for f in chain.networks if f in files]
    serial = uuid.uuid5(uuid.NAMESPACE_URL, " ".join(f.sha256 for f in files))
    tool = {"type": "application", "name": "jettison", "version": __version__}
    return {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": serial.urn,
        "version": 1,
        "metadata": {"tools": {"components": [tool]}, "component": component(subject, models)},
        "components": [component(f, models) for f in others],
        "dependencies": [{"ref": f.sha256, "dependsOn": of} for f, of in made_of],
    }


def origins(chain: Chain, network: Artefact) -> list[str]:
    """Hashes of what a network was made of: the network that it was emitted with, or its source and its plan."""
    twin = chain.twin(network) if network.path.suffix == ".tflite" or network.told.get("format") else None
    is_planned = chain.plan is not None and network.told.get("plan_sha256") == chain.plan.plan_sha256
    by = (chain.ranks, chain.plan) if is_planned else ()
    sources = [twin] if twin is not None else [chain.source(network), *by]
    return sorted({s.sha256 for s in sources if s is not None})


def component(file: Artefact, models: Mapping[str, Model]) -> Json:
    """One file: a network with what goes in and comes out, or data; and what it tells of itself."""
    is_network = file.path.suffix in NETWORKS
    told = {k: file.told[k] for k in TOLD if file.told.get(k)}
    text = {k: v if isinstance(v, str) else json.dumps(v, sort_keys=True) for k, v in told.items()}
    model = models.get(file.path.name)
    return {
        "type": "machine-learning-model" if is_network else "data",
        "bom-ref": file.sha256,
        "name": file.path.name,
        "hashes": [{"alg": "SHA-256", "content": file.sha256}],
        **({"modelCard": {"modelParameters": ports(model)}} if model is not None else {}),
        **({"properties": [{"name": f"jettison:{k}", "value": v} for k, v in text.items()]} if text else {}),
    }


def ports(model: Model) -> Json:
    """Inputs and outputs of a network."""
    sides = {"inputs": model.graph.inputs, "outputs": model.graph.outputs}
    return {k: [{"format": f"{v.name}: {v.dtype} {v.shape}"} for v in vs] for k, vs in sides.items()}
