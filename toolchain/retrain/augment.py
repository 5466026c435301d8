"""Images as they might have been: one table of what can be done to a batch, each drawn anew for every image.

Everything draws from the generator that it is given, so that an epoch can be run again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from toolchain.errors import UsageError, nearest
from toolchain.model import Model

Augment = Callable[[Tensor, Generator], Tensor]  # images [b, channels, height, width], and chance


def between(low: float, high: float, x: Tensor, generator: Generator) -> Tensor:
    """A number for each image, [b, 1, 1, 1], drawn where chance is and moved to where the images are."""
    return (low + (high - low) * torch.rand(len(x), 1, 1, 1, generator=generator)).to(x.device)


def flip(amount: float, x: Tensor, generator: Generator) -> Tensor:
    """Left and right change places in every second image."""
    return torch.where(between(0, 1, x, generator) < 0.5, x, x.flip(-1))


def shift(amount: float, x: Tensor, generator: Generator) -> Tensor:
    """Up to this many pixels up, down and to the sides; the border is repeated."""
    size, (height, width) = round(amount), x.shape[-2:]
    wide = F.pad(x, [size] * 4, mode="replicate")
    places = torch.randint(2 * size + 1, (len(x), 2), generator=generator).tolist()
    return torch.stack([image[:, i : i + height, j : j + width] for image, (i, j) in zip(wide, places, strict=True)])


def rotate(amount: float, x: Tensor, generator: Generator) -> Tensor:
    """Up to this many degrees either way."""
    angle = between(-math.radians(amount), math.radians(amount), x, generator).flatten()
    return turned(x, angle.cos(), angle.sin())


def zoom(amount: float, x: Tensor, generator: Generator) -> Tensor:
    """Larger or smaller by up to this share."""
    scale = between(1 - amount, 1 + amount, x, generator).flatten()
    return turned(x, 1 / scale, torch.zeros_like(scale))


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Images turned about their middle; pixels are square, and the border is repeated."""
    ratio, zero = x.shape[-1] / x.shape[-2], torch.zeros_like(cos)
    rows = torch.stack([cos, -sin / ratio, zero, sin * ratio, cos, zero], 1).reshape(-1, 2, 3)
    grid = F.affine_grid(rows, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def brightness(amount: float, x: Tensor, generator: Generator) -> Tensor:
    """Times 1 ± this share."""
    return x * between(1 - amount, 1 + amount, x, generator)


def noise(amount: float, x: Tensor, generator: Generator) -> Tensor:
    """Plus normal noise of this deviation."""
    return x + amount * torch.randn(x.shape, generator=generator).to(x.device)


AUGMENTS: dict[str, tuple[Callable[[float, Tensor, Generator], Tensor], str]] = {  # name -> (what, its amount)
    "flip": (flip, ""),
    "shift": (shift, "pixels"),
    "rotate": (rotate, "degrees"),
    "zoom": (zoom, "share"),
    "brightness": (brightness, "share"),
    "noise": (noise, "deviation"),
}


def augments_of(asked: Sequence[str | Augment], model: Model) -> list[Augment]:
    """What 'flip' and 'shift:4' ask for, and functions as they are; raises UsageError for anything else."""
    shapes = list(model.inputs.values())
    if any(isinstance(a, str) for a in asked) and (len(shapes) != 1 or len(shapes[0]) != 3):
        raise UsageError(f"images are augmented, and the model reads {model.inputs}", way_out="Leave --augment out")
    return [named(a) if isinstance(a, str) else a for a in asked]


def named(text: str) -> Augment:
    """'rotate:10' -> the function with its amount."""
    name, _, amount = text.partition(":")
    if name not in AUGMENTS:
        raise UsageError(f"there is no augmentation '{name}'", way_out=nearest(name, AUGMENTS))
    function, unit = AUGMENTS[name]
    try:
        number = float(amount or (0 if not unit else "?"))
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf or bool(amount) != bool(unit):
        raise UsageError(
            f"cannot read the augmentation '{text}'", way_out=f"Write {name}{unit and f':NUMBER ({unit})'}"
        )
    return lambda x, generator: function(number, x, generator)
