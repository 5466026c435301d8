"""Ranking where the network runs: the attribution graph of a layer, exported as plain ONNX, on the virtual board.

    jettison targets setup qemu-a53
    python -m benchmarks.rank_on_board [--samples 20]

The layers are the shipped network's last dense and last convolution, the target the loss. Printed are the instructions
that integrated gradients take there, how far they are from this computer's, and whether both rank the units alike.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from targets.answers import load as load_outputs
from targets.answers import reference
from targets.link import Address, linked, run
from targets.measure import AGENT, agent_words, answer
from targets.push import push
from targets.ssh import measure_over_ssh
from targets.virtual import virtual_board
from toolchain.compress.attribution import quadrature
from toolchain.compress.gradient import attribution_graph
from toolchain.compress.groups import analyse
from toolchain.model import load, save
from toolchain.session import run as infer
from toolchain.session import session, with_outputs
from toolchain.shipped import triangles_squares_path
from toolchain.synthetic import triangles_squares

BOARD = "qemu-a53"
KINDS = ("dense", "channel")
NODES = 16
PATIENCE_S = 600.0


def exported(kind: str, folder: Path, samples: int) -> tuple[Path, Path]:
    """The attribution graph, and its inputs for so many samples: the layer's values, labels, nodes and weights."""
    model = load(triangles_squares_path())
    *_, cut = (value for group in analyse(model).groups if group.kind == kind for value, _ in group.cuts)
    x, labels = triangles_squares(samples, seed=5)
    (h,) = infer(session(with_outputs(model.ir, [cut])), dict.fromkeys(model.inputs, x))
    alpha, weight = quadrature(NODES)
    graph, inputs = folder / "gradient.onnx", folder / "inputs.npz"
    save(model.with_ir(attribution_graph(model, cut).ir), graph)
    given = {"jettison/h": h, "jettison/labels": labels, "jettison/alpha": alpha, "jettison/weight": weight}
    np.savez(inputs, **given)  # pyright: ignore[reportArgumentType]
    return graph, inputs


def on_host(graph: Path, inputs: Path) -> NDArray[np.float32]:
    """Attributions [targets, b, *s] by this computer's runtime."""
    outputs = graph.with_suffix(".here")
    reference(graph, "ort", threads=1, inputs=inputs, outputs=outputs, timeout_s=PATIENCE_S)
    return load_outputs(outputs)[0]


def on_board(graph: Path, inputs: Path, address: Address) -> NDArray[np.float32]:
    """The same by the board's."""
    with linked(address, wait_s=PATIENCE_S, limit_s=None) as link:
        push(link, {"agent.py": AGENT, graph.name: graph, "inputs.npz": inputs}, free_bytes=2**30, timeout_s=PATIENCE_S)
        words = agent_words(graph.name, "ort", runs=1, warmup=0, threads=1, inputs="inputs.npz")
        words = [address.python, "agent.py", *words, "--outputs", "outputs"]
        said = run(link, words, doing="the attribution", timeout_s=PATIENCE_S)
        answer(said.status, said.stdout.decode(), said.stderr, "ort", graph.name)
        fetched = graph.with_suffix(".there")
        fetched.write_bytes(run(link, ["cat", "outputs"], doing="the transfer", timeout_s=PATIENCE_S).stdout)
    return load_outputs(fetched)[0]


def units(attributions: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean attribution of each unit, the sum of its places', over targets and samples: [units]. It is ranked by."""
    return attributions.reshape(*attributions.shape[:3], -1).sum(axis=3).mean(axis=(0, 1))


def row(kind: str, samples: int, address: Address, folder: Path) -> dict[str, Any]:
    """One layer, here and there."""
    graph, inputs = exported(kind, folder, samples)
    here, there = on_host(graph, inputs), on_board(graph, inputs, address)
    (counted,) = measure_over_ssh(
        [(graph, "ort")],
        address,
        target=BOARD,
        runs=2,
        warmup=1,
        rounds=1,
        inputs=inputs,
        grade="counted",
        timeout_s=PATIENCE_S,
    )
    ranks = [np.argsort(np.argsort(units(found))) for found in (here, there)]
    return {
        "layer": kind,
        "samples": samples,
        "nodes": NODES,
        "units": len(ranks[0]),
        "same rank": int((ranks[0] == ranks[1]).sum()),
        "difference": float(np.abs(there - here).max() / np.abs(here).max()),
        "M instructions a sample": round(counted.ns.p50 / 1e6 / samples, 3),
        "peak MiB": round((counted.peak_rss_bytes or 0) / 2**20, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20)
    asked = parser.parse_args()
    with virtual_board(BOARD) as address:
        for kind in KINDS:
            with tempfile.TemporaryDirectory() as folder:
                print(json.dumps(row(kind, asked.samples, address, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
