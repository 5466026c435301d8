"""Weights rounded so that what a layer computes on real inputs stays closest, not each weight by itself.

Rounding W to q changes a layer's output by (q − W)x. Its mean goes into the bias (Nagel et al. 2019, §4.2), exactly;
what varies about it, tr (q − W) C (q − W)ᵀ with C the covariance of x, is made small by rounding the weights one after
another, each making up for those before it: GPTQ (Frantar et al. 2023), which is Babai's nearest plane.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

LARGEST = 127  # symmetric int8
DAMPING = 0.01  # of the mean variance, added to each: directions that no sample shows
BLOCK = 128
Floats = NDArray[np.float32]


def nearest_plane(weights: Floats, covariance: Floats) -> NDArray[np.int8]:
    """Integers in −127…127 near the weights, both [out, in], that keep weights · x, x of this covariance [in, in]."""
    order = np.argsort(np.diag(covariance))
    damping = np.float32(DAMPING * np.diag(covariance).mean() + 1e-12)
    factor = np.linalg.cholesky(covariance[np.ix_(order, order)] + damping * np.eye(len(order), dtype=np.float32))
    target = np.ascontiguousarray(weights.T[order])
    error = np.zeros_like(target)  # [in, out]: q − W of what is rounded, 0 of what is not yet
    for end in range(len(order), 0, -BLOCK):
        start = max(end - BLOCK, 0)
        carried = factor[end:, start:end].T @ error[end:]
        for j in range(end - 1, start - 1, -1):
            pull = carried[j - start] + factor[j + 1 : end, j] @ error[j + 1 : end]
            error[j] = np.clip(np.rint(target[j] - pull / factor[j, j]), -LARGEST, LARGEST) - target[j]
    rounded = np.empty(target.shape, np.int8)
    rounded[order] = np.rint(target + error)
    return np.ascontiguousarray(rounded.T)


def spread(rows: Floats) -> tuple[NDArray[np.float64], Floats]:
    """Mean [in] and covariance [in, in] of rows [n, in]."""
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows - mean.astype(np.float32)
    return mean, centred.T @ centred / np.float32(len(rows))


def windows(x: Floats, kernel: tuple[int, int], options: Any, rows: int, seed: int) -> Floats:
    """What `rows` random windows of a convolution see of x [n, h, w, c]: [rows, kh, kw, c]; all, where they are few."""
    strides, steps = (options.strideH, options.strideW), (options.dilationHFactor, options.dilationWFactor)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, steps, strict=True)]
    if options.padding == 0:  # SAME
        short = [
            max((-(-size // s) - 1) * s + r - size, 0) for size, s, r in zip(x.shape[1:3], strides, reach, strict=True)
        ]
        x = np.pad(x, ((0, 0), *((p // 2, p - p // 2) for p in short), (0, 0)))
    seen = sliding_window_view(x, reach, (1, 2))[:, :: strides[0], :: strides[1], :, :: steps[0], :: steps[1]]
    places = np.random.default_rng(seed).permutation(int(np.prod(seen.shape[:3])))[:rows]
    return np.ascontiguousarray(seen[np.unravel_index(places, seen.shape[:3])].transpose(0, 2, 3, 1))
