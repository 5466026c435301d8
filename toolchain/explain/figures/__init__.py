"""Each figure and table as a function that returns its values; nothing here draws."""

from toolchain.explain.figures.atlas import by_kernel, occurrence_page
from toolchain.explain.figures.curves import Trial, class_curves, joint_curves, layer_curves, prune_curve
from toolchain.explain.figures.inputs import input_maps
from toolchain.explain.figures.network import architecture, class_counts, parameters, sample_images, splits
from toolchain.explain.figures.occurrence import (
    class_kernels,
    findings_table,
    occurrence_differences,
    occurrence_maps,
    selectivity_maps,
)
from toolchain.explain.figures.units import conditional, overlap, rank_histogram, sorted_units, unit

__all__ = [
    "Trial",
    "architecture",
    "by_kernel",
    "class_counts",
    "class_curves",
    "class_kernels",
    "conditional",
    "findings_table",
    "input_maps",
    "joint_curves",
    "layer_curves",
    "occurrence_differences",
    "occurrence_maps",
    "occurrence_page",
    "overlap",
    "parameters",
    "prune_curve",
    "rank_histogram",
    "sample_images",
    "selectivity_maps",
    "sorted_units",
    "splits",
    "unit",
]
