"""Each figure and table as a function that returns its values; nothing here draws."""

from toolchain.explain.figures.curves import Trial, class_curves, joint_curves, layer_curves, prune_curve
from toolchain.explain.figures.heatmaps import heatmap_grid
from toolchain.explain.figures.inputs import input_maps
from toolchain.explain.figures.network import architecture, class_counts, parameters, sample_images, splits
from toolchain.explain.figures.occurrence import (
    class_kernels,
    findings_table,
    occurrence_differences,
    occurrence_maps,
    selectivity_maps,
)
from toolchain.explain.figures.quality import perturbation, quality_row, quality_table
from toolchain.explain.figures.units import conditional, overlap, rank_histogram, sorted_units, unit

__all__ = [
    "Trial",
    "architecture",
    "class_counts",
    "class_curves",
    "class_kernels",
    "conditional",
    "findings_table",
    "heatmap_grid",
    "input_maps",
    "joint_curves",
    "layer_curves",
    "occurrence_differences",
    "occurrence_maps",
    "overlap",
    "parameters",
    "perturbation",
    "prune_curve",
    "quality_row",
    "quality_table",
    "rank_histogram",
    "sample_images",
    "selectivity_maps",
    "sorted_units",
    "splits",
    "unit",
]
