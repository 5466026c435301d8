"""How far heatmaps are from what Captum, zennit and pytorch-grad-cam say of the same networks in float64.

    PYTHONPATH=.:tests python -m benchmarks.heatmap_oracles

One row a method and library: the largest deviation over all pixels of four images, as a share of the largest relevance,
on the network where it is largest. The networks are those of tests/explain/oracles.py.
"""

from __future__ import annotations

from explain.oracles import ORACLES

from toolchain.tables import show


def main() -> None:
    rows = []
    for oracle in ORACLES:
        gaps = {name: oracle.gap(name) for name in oracle.networks}
        worst = max(gaps, key=gaps.__getitem__)
        row = {"method": oracle.method, "library": oracle.library, "their name": oracle.name}
        rows.append(row | {"networks": len(gaps), "largest deviation": f"{gaps[worst]:.1e}", "on": worst})
    show(rows, "md")


if __name__ == "__main__":
    main()
