"""Generated images with known content: Triangles & Squares, and counting (Ranguelova; SEEDS.md part D).

A regular k-gon of area A is the set where max_e (n_e · (p - c)) <= a, with k unit normals n_e and the apothem
a = sqrt(A / (k tan(π/k))). On a pixel grid n_e · p is a row plus a column, so one edge of one image costs one
broadcast sum, and a whole chunk of images is drawn at once. One pixel = 1; pixel centres lie at 0.5, 1.5, …
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import UsageError

CLASSES = ("triangle", "square")

# Side of the square of equal area, as a share of the image side: one size at 32×32, "rotated and scaled" at 64×64.
EXTENTS = {32: (0.42, 0.42), 64: (0.2, 0.5)}

CORNERS = np.array([3, 4])  # by class number
TRIANGLE_REACH = 2 / 27**0.25  # circumradius of a triangle of area 1; a square's is smaller
LEAST_CONTRAST, MOST_CONTRAST = 0.25, 0.95
CHUNK_PIXELS = 1 << 18  # 1 MiB of float32: the working set stays in the L2 cache

Floats = NDArray[np.floating[Any]]
Images = tuple[NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True)
class Polygons:
    """m regular polygons in each of n images, in pixels.

    centre  [n, m, 2]  (column, row)
    extent  [n, m]  square root of the area; 0 draws nothing
    angle   [n, m]  radians
    corners [n, m]  3 or 4
    """

    centre: Floats
    extent: Floats
    angle: Floats
    corners: NDArray[np.int64]


def triangles_squares(n: int, size: int = 32, seed: int = 0, smooth: bool = False) -> Images:
    """n images of one triangle or square: x [n, 1, size, size] float32 in 0..1, y [n] int64 into CLASSES.

    Object and background are uniform. Both classes have the same distribution of area, position and contrast,
    so that only the shape tells them apart; their counts differ by at most one.
    size    32: rotated and shifted; 64: scaled too
    smooth  anti-aliased edges; otherwise an image has two grey levels
    """
    if size not in EXTENTS:
        raise UsageError(f"Triangles & Squares come in sizes {', '.join(map(str, EXTENTS))}, not {size}")
    random = _generator(n, seed)
    y = random.permutation(np.arange(n) % len(CLASSES))
    extent = size * random.uniform(*EXTENTS[size], (n, 1))
    reach = TRIANGLE_REACH * extent + 0.5  # of either class, or the position would tell a triangle
    centre = size / 2 + (size / 2 - reach)[..., None] * random.uniform(-1, 1, (n, 1, 2))
    polygons = Polygons(centre, extent, _angles(random, (n, 1)), CORNERS[y][:, None])
    return _paint(polygons, size, random, smooth), y


def counting(n: int, size: int = 64, most: int = 5, seed: int = 0, smooth: bool = False) -> Images:
    """n images of 0 to `most` similar objects: x [n, 1, size, size] float32 in 0..1, y [n] int64 their number.

    The objects of one image share shape, area and grey level, not their angle, and do not touch: each has its own cell
    of a square grid. Counts are as balanced as n allows.
    """
    across = int(np.ceil(np.sqrt(most)))
    if most < 1 or size < 12 * across:
        raise UsageError(f"{most} objects do not fit {size}x{size} pixels", way_out="Each needs a cell of 12x12 pixels")
    cell = size / across
    random = _generator(n, seed)
    y = random.permutation(np.arange(n) % (most + 1))
    # Below 4 pixels a triangle is a blob; the margin keeps even smooth edges of neighbours a pixel apart.
    margin = 1.5
    largest = (cell / 2 - margin) / TRIANGLE_REACH
    extent = random.uniform(max(4.0, 0.6 * largest), largest, (n, 1))
    free = cell / 2 - margin - TRIANGLE_REACH * extent
    cells = random.random((n, across**2)).argsort(1)[:, :most]
    corner = np.stack([cells % across, cells // across], -1) * cell
    centre = corner + cell / 2 + free[..., None] * random.uniform(-1, 1, (n, most, 2))
    corners = np.repeat(CORNERS[random.integers(len(CORNERS), size=(n, 1))], most, axis=1)
    drawn = np.where(np.arange(most) < y[:, None], extent, 0.0)
    return _paint(Polygons(centre, drawn, _angles(random, (n, most)), corners), size, random, smooth), y


def object_masks(images: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where the objects of generated images lie, [n, 1, h, w] -> [n, h, w]; smooth edges are theirs.

    No object reaches the corner, and a background is uniform: what differs from the corner is an object.
    """
    return (images != images[:, :, :1, :1]).any(axis=1)


def _generator(n: int, seed: int) -> np.random.Generator:
    if n < 0 or seed < 0:
        raise UsageError(f"generated images need n >= 0 and seed >= 0, not {n} and {seed}")
    return np.random.default_rng(seed)


def _angles(random: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return random.uniform(0, 2 * np.pi, shape)


def _paint(polygons: Polygons, size: int, random: np.random.Generator, smooth: bool) -> NDArray[np.float32]:
    """Images [n, 1, size, size] of `polygons`, each with one grey for its background and one for its objects."""
    n = len(polygons.extent)
    contrast = random.uniform(LEAST_CONTRAST, MOST_CONTRAST, n)
    dark = random.uniform(0, 1 - contrast)
    grey = np.stack([dark, dark + contrast], 1).astype(np.float32)
    background, foreground = np.where(random.random((n, 1)) < 0.5, grey, grey[:, ::-1]).T[..., None, None]
    images = np.empty((n, 1, size, size), np.float32)
    step = max(1, CHUNK_PIXELS // size**2)
    for start in range(0, n, step):
        rows = slice(start, start + step)
        distance = _distance(polygons, rows, size)
        share = np.clip(0.5 - distance, 0, 1) if smooth else (distance <= 0).astype(np.float32)
        images[rows, 0] = (1 - share) * background[rows] + share * foreground[rows]
    return images


def _distance(polygons: Polygons, rows: slice, size: int) -> NDArray[np.float32]:
    """Distance in pixels [b, size, size] from each pixel centre to the nearest polygon's edge, negative inside.

    Outside, near a corner, it is the distance to the nearest edge's line: never more than the true one.
    """
    corners = polygons.corners[rows]
    # A triangle's fourth normal is its first again.
    direction = polygons.angle[rows, :, None] + 2 * np.pi / corners[..., None] * np.arange(CORNERS.max())  # [b, m, e]
    normal = np.stack([np.cos(direction), np.sin(direction)])
    apothem = polygons.extent[rows] / np.sqrt(corners * np.tan(np.pi / corners))
    reach = (normal * polygons.centre[rows].transpose(2, 0, 1)[..., None]).sum(0) + apothem[..., None]
    grid = np.arange(size) + 0.5
    columns = (normal[0][..., None] * grid).astype(np.float32)  # [b, m, e, size]
    lines = (normal[1][..., None] * grid - reach[..., None]).astype(np.float32)
    nearest = np.full((len(corners), size, size), np.inf, np.float32)
    for i in range(corners.shape[1]):
        edges = (columns[:, i, e, None, :] + lines[:, i, e, :, None] for e in range(CORNERS.max()))
        inside = next(edges)
        for edge in edges:
            np.maximum(inside, edge, out=inside)
        inside[polygons.extent[rows, i] == 0] = np.inf
        np.minimum(nearest, inside, out=nearest)
    return nearest
