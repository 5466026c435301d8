"""A layout only says where things lie: what it calls unmoved has the same bytes in the same order."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.emit.layout import Layout, channels_last, image, plain, reshaped

SIZES = st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=5).map(tuple)


@st.composite
def laid(draw: st.DrawFn) -> tuple[np.ndarray, Layout]:
    """An array of distinct numbers and some layout of it, now and then with an order along one axis."""
    sizes = draw(SIZES)
    axes: list[int | None] = list(draw(st.permutations(range(len(sizes)))))
    if draw(st.booleans()):
        axes.insert(draw(st.integers(0, len(axes))), None)
    axis = draw(st.integers(0, len(sizes) - 1))
    orders = {axis: tuple(draw(st.permutations(range(sizes[axis]))))} if sizes[axis] > 1 and draw(st.booleans()) else {}
    return np.arange(math.prod(sizes)).reshape(sizes), Layout(tuple(axes), orders)


@given(laid(), st.data())
def test_a_transpose_moves_nothing(given_: tuple[np.ndarray, Layout], data: st.DataObject) -> None:
    x, layout = given_
    perm = list(data.draw(st.permutations(range(x.ndim))))
    assert np.array_equal(layout.transposed(perm).arranged(x.transpose(perm)), layout.arranged(x))


@settings(max_examples=500)
@given(laid(), SIZES)
def test_a_reshape_that_has_a_layout_moves_nothing(given_: tuple[np.ndarray, Layout], split: tuple[int, ...]) -> None:
    x, layout = given_
    for after in ((x.size,), split if math.prod(split) == x.size else (x.size, 1), (1, *x.shape), x.shape[::-1]):
        result = reshaped(layout, x.shape, after)
        if result is not None:
            assert np.array_equal(result.arranged(x.reshape(after)).ravel(), layout.arranged(x).ravel())


@given(laid(), st.data())
def test_what_vanishes_takes_its_order_along(given_: tuple[np.ndarray, Layout], data: st.DataObject) -> None:
    x, layout = given_
    axis = data.draw(st.integers(0, x.ndim - 1))
    left = layout.without({axis}).arranged(x.sum(axis=axis))
    assert np.array_equal(left, layout.arranged(x).sum(axis=layout.place(axis)))


def test_a_flatten_of_an_image_is_an_order_of_its_columns() -> None:
    layout = reshaped(image(4), (-1, 2, 1, 3), (-1, 6))
    assert layout == Layout((0, 1), {1: (0, 3, 1, 4, 2, 5)})


def test_a_flatten_of_single_pixels_needs_no_order() -> None:
    assert reshaped(channels_last(4), (-1, 5, 1, 1), (-1, 5)) == plain(2)


def test_a_signal_is_an_image_of_height_1() -> None:
    assert image(3).shape((8, 4, 11)) == (8, 1, 11, 4)
