"""Laws of the generated images: same seed, same bytes; balanced labels; the geometry is what it says."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from toolchain.errors import UsageError
from toolchain.shipped import triangles_squares_path
from toolchain.synthetic import CLASSES, EXTENTS, LEAST_CONTRAST, Polygons, counting, object_masks, triangles_squares

SIZES = tuple(EXTENTS)


def object_mask(image: np.ndarray) -> np.ndarray:
    """[h, w] bool: the pixels that differ from the corner pixel, which is background by construction."""
    return image != image[0, 0]


def drawn(size: int, n: int) -> Polygons:
    """The polygons behind triangles_squares(n, size)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toolchain.synthetic._paint", lambda polygons, *_: polygons)
        return triangles_squares(n, size)[0]


def components(mask: np.ndarray) -> int:
    """Number of 8-connected components, by flood fill, one pixel at a time."""
    left = {(int(row), int(column)) for row, column in np.argwhere(mask)}
    count = 0
    while left:
        count += 1
        edge = [left.pop()]
        while edge:
            row, column = edge.pop()
            near = {(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & left
            left -= near
            edge.extend(near)
    return count


def literal_mask(size: int, vertices: np.ndarray) -> np.ndarray:
    """[size, size] bool: pixel centres inside the convex polygon `vertices` [k, 2], by the sign of cross products."""
    mask = np.zeros((size, size), bool)
    for row in range(size):
        for column in range(size):
            point = np.array([column + 0.5, row + 0.5])
            along, to = np.roll(vertices, -1, 0) - vertices, point - vertices
            mask[row, column] = bool((along[:, 0] * to[:, 1] - along[:, 1] * to[:, 0] >= 0).all())
    return mask


@pytest.mark.parametrize("size", SIZES)
def test_images_have_the_promised_shape_type_and_range(size: int) -> None:
    x, y = triangles_squares(7, size)
    assert x.shape == (7, 1, size, size) and x.dtype == np.float32 and y.shape == (7,) and y.dtype == np.int64
    assert x.min() >= 0 and x.max() <= 1
    assert set(y) <= set(range(len(CLASSES)))


@pytest.mark.parametrize("make", [lambda seed: triangles_squares(300, 32, seed), lambda seed: counting(300, seed=seed)])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(make) -> None:
    (x, y), (again, labels), (other, _) = make(3), make(3), make(4)
    assert x.tobytes() == again.tobytes() and y.tobytes() == labels.tobytes()
    assert x.tobytes() != other.tobytes()


def test_images_do_not_depend_on_the_chunks_they_are_drawn_in(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = triangles_squares(50, 64)
    monkeypatch.setattr("toolchain.synthetic.CHUNK_PIXELS", 3 * 64 * 64)
    chunked, _ = triangles_squares(50, 64)
    np.testing.assert_array_equal(whole, chunked)


@pytest.mark.parametrize("n", [1, 100, 101])
def test_labels_are_balanced(n: int) -> None:
    _, y = triangles_squares(n)
    assert np.ptp(np.bincount(y, minlength=2)) <= 1
    _, k = counting(n, most=4)
    assert np.ptp(np.bincount(k, minlength=5)) <= 1


def test_no_images_are_still_images() -> None:
    x, y = triangles_squares(0)
    assert x.shape == (0, 1, 32, 32) and y.shape == (0,)


@pytest.mark.parametrize("size", SIZES)
def test_an_image_has_two_grey_levels_of_clear_contrast(size: int) -> None:
    x, _ = triangles_squares(200, size)
    for image in x:
        levels = np.unique(image)
        # Less 1e-6: a level is the sum of two float64 draws, rounded to float32.
        assert len(levels) == 2 and levels[1] - levels[0] >= LEAST_CONTRAST - 1e-6


def test_contrast_varies_and_the_object_is_lighter_about_half_the_time() -> None:
    x, _ = triangles_squares(2000)
    contrast = np.array([image[object_mask(image)][0] - image[0, 0] for image in x[:, 0]])
    assert np.abs(contrast).min() < 0.3 and np.abs(contrast).max() > 0.9
    # 2000 fair coins: 0.04 is 3.6 standard deviations.
    assert abs((contrast > 0).mean() - 0.5) < 0.04


def test_both_classes_cover_the_same_area() -> None:
    x, y = triangles_squares(2000)
    area = np.array([object_mask(image).sum() for image in x[:, 0]])
    exact = (32 * EXTENTS[32][0]) ** 2
    for label in range(len(CLASSES)):
        # Counting pixels is unbiased over random positions; one image is off by about the root of its perimeter.
        assert abs(area[y == label].mean() - exact) < 0.01 * exact
        assert area[y == label].std() < 0.04 * exact


def test_an_object_of_any_scale_is_whole_and_has_its_area() -> None:
    (x, _), polygons = triangles_squares(1000, 64), drawn(64, 1000)
    area = np.array([object_mask(image).sum() for image in x[:, 0]])
    exact = polygons.extent[:, 0] ** 2
    assert exact.min() < (64 * 0.22) ** 2 and exact.max() > (64 * 0.48) ** 2
    # Counting pixel centres errs most where edges follow the grid: by less than a row and a column.
    assert (np.abs(area - exact) < 2 * np.sqrt(exact)).all()
    k = polygons.corners
    radius = np.sqrt(2 / (k * np.sin(2 * np.pi / k))) * polygons.extent
    assert (radius <= polygons.centre.min(-1)).all() and (polygons.centre.max(-1) <= 64 - radius).all()


@pytest.mark.parametrize("label", range(len(CLASSES)))
def test_the_angle_is_uniform_over_the_symmetry_of_the_shape(label: int) -> None:
    x, y = triangles_squares(4000, 64)
    angles = []
    for image in x[y == label, 0]:
        row, column = np.nonzero(object_mask(image))
        z = (column - column.mean()) + 1j * (row - row.mean())
        k = (3, 4)[label]
        # The k-th moment turns k times as fast as the shape: its phase is the angle modulo 2π/k.
        angles.append(np.angle((z**k * np.abs(z) ** 2).sum()))
    share = np.histogram(angles, bins=8, range=(-np.pi, np.pi))[0] / len(angles)
    # 2000 draws into eight bins: one standard deviation is 0.0074.
    assert np.abs(share - 1 / 8).max() < 0.03


def test_an_image_equals_the_polygon_drawn_point_by_point() -> None:
    (x, y), polygons = triangles_squares(6), drawn(32, 6)
    for i in range(6):
        k = (3, 4)[y[i]]
        area = float(polygons.extent[i, 0]) ** 2
        radius = np.sqrt(2 * area / (k * np.sin(2 * np.pi / k)))
        # Corners lie half a turn of an edge away from the edges' normals.
        corner = polygons.angle[i, 0] + np.pi / k + 2 * np.pi / k * np.arange(k)
        vertices = polygons.centre[i, 0] + radius * np.stack([np.cos(corner), np.sin(corner)], 1)
        np.testing.assert_array_equal(object_mask(x[i, 0]), literal_mask(32, vertices))


@pytest.mark.parametrize("size", SIZES)
def test_smooth_edges_keep_the_levels_and_the_area(size: int) -> None:
    (hard, y), (soft, labels) = triangles_squares(200, size), triangles_squares(200, size, smooth=True)
    np.testing.assert_array_equal(y, labels)
    assert (hard.min((1, 2, 3)) <= soft.min((1, 2, 3))).all() and (soft.max((1, 2, 3)) <= hard.max((1, 2, 3))).all()
    assert len(np.unique(soft[0])) > 2
    # Only pixels within half a pixel of the edge differ, and they differ by at most half the contrast.
    assert (np.abs(hard - soft).max((1, 2, 3)) <= 0.5 * np.ptp(hard, (1, 2, 3)) + 1e-6).all()


@pytest.mark.parametrize(("size", "most"), [(64, 5), (64, 1), (96, 16), (48, 16)])
def test_a_count_is_the_number_of_connected_components(size: int, most: int) -> None:
    x, y = counting(150, size, most)
    assert x.shape == (150, 1, size, size) and y.max() == min(most, 149)
    for image, count in zip(x[:, 0], y, strict=True):
        # Background is the level of the frame: no cell's margin reaches the border.
        assert components(image != image[0, 0]) == count
        assert len(np.unique(image)) == (2 if count else 1)


def test_objects_of_one_counting_image_are_alike() -> None:
    x, y = counting(300, 64, 4)
    area = np.array([object_mask(image).sum() for image in x[:, 0]])
    smallest, largest = (area[y == k].mean() for k in (1, 4))
    assert 3.6 < largest / smallest < 4.4


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: triangles_squares(3, 48), "32, 64"),
        (lambda: triangles_squares(-1), "n >= 0"),
        (lambda: counting(3, seed=-1), "seed >= 0"),
        (lambda: counting(3, 64, 100), "do not fit"),
        (lambda: counting(3, 64, 0), "do not fit"),
    ],
)
def test_what_cannot_be_drawn_is_refused(make, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        make()


@pytest.mark.parametrize("size", SIZES)
def test_the_mask_of_an_object_is_that_of_its_polygon(size: int) -> None:
    n = 12
    x, y = triangles_squares(n, size)
    polygons, found = drawn(size, n), object_masks(x)
    assert found.shape == (n, size, size) and found.dtype == bool
    for i in range(n):
        corners = int(y[i]) + 3
        radius = polygons.extent[i, 0] * np.sqrt(2 / (corners * np.sin(2 * np.pi / corners)))
        around = polygons.angle[i, 0] + np.pi / corners + 2 * np.pi / corners * np.arange(corners)
        vertices = polygons.centre[i, 0] + radius * np.stack([np.cos(around), np.sin(around)], 1)
        # a pixel whose centre lies on an edge may fall on either side of it
        assert (found[i] != literal_mask(size, vertices)).sum() <= 1


def test_masks_of_smooth_and_of_counted_objects_hold_every_object() -> None:
    sharp, smooth = (object_masks(triangles_squares(20, smooth=s)[0]) for s in (False, True))
    assert (smooth >= sharp).all() and smooth.sum() < 1.5 * sharp.sum()
    x, y = counting(20)
    assert [components(m) for m in object_masks(x)] == y.tolist()


def shipped() -> onnx.ModelProto:
    return onnx.load(triangles_squares_path())


def test_the_shipped_network_is_small_and_leaves_the_batch_free() -> None:
    assert triangles_squares_path().stat().st_size < 1_000_000
    graph = shipped().graph
    (image,), (logits,) = graph.input, graph.output
    shape = lambda value: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
    assert (image.name, shape(image)) == ("image", ["N", 1, 32, 32])
    assert (logits.name, shape(logits)) == ("logits", ["N", len(CLASSES)])


def test_the_shipped_network_shows_what_structured_pruning_must_see_through() -> None:
    graph = shipped().graph
    assert {"Conv", "BatchNormalization", "Relu", "Add", "MaxPool", "Flatten", "Gemm"} == {
        n.op_type for n in graph.node
    }
    groups = [a.i for node in graph.node for a in node.attribute if a.name == "group"]
    assert max(groups) > 1
    parameters = {tensor.name for tensor in graph.initializer}
    assert {"conv1.weight", "bn1.running_mean", "dense1.weight", "dense2.bias"} <= parameters


def test_the_shipped_network_tells_triangles_from_squares() -> None:
    session = onnxruntime.InferenceSession(triangles_squares_path(), providers=["CPUExecutionProvider"])
    x, y = triangles_squares(500, 32, seed=7)
    assert (session.run(None, {"image": x})[0].argmax(1) == y).mean() > 0.97
