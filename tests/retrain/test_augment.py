"""What augmentation does to images: known turns, bounds, and chance from its generator alone."""

from __future__ import annotations

import numpy as np
import pytest
from compress.networks import network

torch = pytest.importorskip("torch", reason="torch augments")

from toolchain.retrain.augment import AUGMENTS, augments_of, turned  # noqa: E402

IMAGES = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 3, 8, 8)).astype(np.float32))
ASKED = ("flip", "shift:2", "rotate:10", "zoom:0.2", "brightness:0.3", "noise:0.1")


def seen(text: str, seed: int = 0) -> torch.Tensor:
    (augment,) = augments_of([text], network("alexnet"))
    return augment(IMAGES, torch.Generator().manual_seed(seed))


def test_every_augmentation_is_tried_here() -> None:
    assert {text.partition(":")[0] for text in ASKED} == set(AUGMENTS)


@pytest.mark.parametrize("text", ASKED)
def test_the_generator_alone_decides(text: str) -> None:
    before = IMAGES.clone()
    torch.manual_seed(1)
    first = seen(text)
    torch.manual_seed(2)
    assert torch.equal(first, seen(text)) and not torch.equal(first, seen(text, 1))
    assert torch.equal(IMAGES, before) and first.shape == IMAGES.shape and first.dtype == IMAGES.dtype


def test_a_flip_turns_some_images_around_and_leaves_the_others() -> None:
    kinds = {(torch.equal(y, x), torch.equal(y, x.flip(-1))) for y, x in zip(seen("flip"), IMAGES, strict=True)}
    assert kinds == {(True, False), (False, True)}


def test_a_shift_is_a_window_of_the_image_with_its_border_repeated() -> None:
    wide = np.pad(IMAGES.numpy(), [(0, 0), (0, 0), (2, 2), (2, 2)], mode="edge")
    windows = [wide[:, :, i : i + 8, j : j + 8] for i in range(5) for j in range(5)]
    for number, image in enumerate(seen("shift:2").numpy()):
        assert any(np.array_equal(image, w[number]) for w in windows)


@pytest.mark.parametrize("text", ["shift:0", "rotate:0", "zoom:0", "brightness:0", "noise:0"])
def test_an_amount_of_0_changes_nothing(text: str) -> None:
    torch.testing.assert_close(seen(text), IMAGES, rtol=0, atol=1e-5)


def test_a_quarter_turn_is_a_quarter_turn() -> None:
    zero, one = torch.zeros(6), torch.ones(6)
    quarter = turned(IMAGES, zero, one)
    torch.testing.assert_close(quarter, IMAGES.rot90(1, (2, 3)), rtol=0, atol=1e-5)


def test_pixels_stay_square_in_images_that_are_not() -> None:
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((1, 1, 4, 10)).astype(np.float32))
    middle = turned(x, torch.zeros(1), torch.ones(1))[:, :, :, 3:7]
    torch.testing.assert_close(middle, x[:, :, :, 3:7].rot90(1, (2, 3)), rtol=0, atol=1e-5)


def test_brightness_is_one_factor_for_each_image() -> None:
    factors = (seen("brightness:0.3") / IMAGES).flatten(1)
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors))
    assert bool(((factors - 1).abs() <= 0.3 + 1e-5).all())


def test_a_function_is_taken_as_it_is() -> None:
    hook = lambda x, generator: x + 1
    assert augments_of([hook], network("mlp")) == [hook]
