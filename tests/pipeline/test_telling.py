"""What an emitted file says of itself."""

from __future__ import annotations

import json

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from compress.networks import network

from toolchain.compress.groups import analyse
from toolchain.compress.surgery import prune
from toolchain.data import PIXELS, Samples
from toolchain.emit import to_tflite
from toolchain.pipeline.telling import metadata


def entries(data: bytes) -> dict[str, str]:
    """The metadata of a TFLite file."""
    file = schema.Model.GetRootAs(data)
    found = [file.Metadata(i) for i in range(file.MetadataLength())]
    return {m.Name().decode(): bytes(file.Buffers(m.Buffer()).DataAsNumpy()).decode() for m in found}


def test_a_tflite_file_tells_its_source_its_plan_and_what_its_samples_know() -> None:
    model = network("alexnet")
    channels = analyse(model)
    pruned = prune(model, channels, channels.groups[0].units[:2])
    samples = Samples("folder", {"x": np.zeros((1, 1), np.float32)}, None, ("rock", "sun"), "imagenet")
    told = entries(to_tflite(pruned, metadata(pruned, [samples])).data)
    assert told["source_sha256"] == model.sha256
    assert told["plan_sha256"] == pruned.ir.metadata_props["jettison.plan_sha256"]
    assert told["labels"].splitlines() == ["rock", "sun"]
    scale, mean, std = PIXELS["imagenet"]
    assert json.loads(told["normalisation"]) == {"scale": scale, "mean": list(mean), "std": list(std)}
    assert {"tool", "jettison.layout"} <= told.keys()


def test_samples_that_are_numbers_tell_no_normalisation_and_their_parts_keep_what_they_tell() -> None:
    plain = Samples("numbers", {"x": np.zeros((3, 1), np.float32)}, None)
    assert not metadata(network("mlp"), [plain]).keys() & {"labels", "normalisation", "plan_sha256"}
    assert Samples("images", plain.inputs, None, (), "unit").first(2).pixels == "unit"
