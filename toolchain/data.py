"""Labelled samples: .npz, a folder for each class, or a .csv of file,label; checked against their model."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.arrays import read_arrays
from toolchain.errors import BadInput, UsageError
from toolchain.model import Model
from toolchain.validate import read_bytes

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}
PIXELS = {  # how images become numbers: x / scale, then (x − mean) / std for each channel
    "unit": (255.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "raw": (1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": (255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@dataclass(frozen=True)
class Samples:
    """Inputs of a model with their labels.

    inputs   {input name: [n, *s] float32}
    labels   true classes [n] int64, or None
    classes  their names, or () where none are given
    pixels   how images became these numbers, or "" for samples that were numbers
    masks    true where the object of an image is, [n, h, w], or None where that is not known
    skipped  files of the set that could not be read
    """

    name: str
    inputs: Mapping[str, NDArray[np.float32]]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...] = ()
    pixels: str = ""
    masks: NDArray[np.bool_] | None = None
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def first(self, n: int) -> Samples:
        """The first n samples."""
        return self.at(slice(n))

    def at(self, which: slice | NDArray[np.int64] | NDArray[np.bool_]) -> Samples:
        """These samples."""
        part = {k: v[which] for k, v in self.inputs.items()}
        labels = None if self.labels is None else self.labels[which]
        masks = None if self.masks is None else self.masks[which]
        return replace(self, inputs=part, labels=labels, masks=masks)

    def balanced(self, n: int, seed: int) -> Samples:
        """n samples at most, as many of each class as there are, in a seeded order; the set itself if it is small."""
        if len(self) <= n:
            return self
        generator = np.random.default_rng(seed)
        order = generator.permutation(len(self))
        if self.labels is not None:  # the first of every class, then the second of every class, …
            turn = np.zeros(len(self), np.int64)
            for k in np.unique(self.labels):
                mine = order[self.labels[order] == k]
                turn[mine] = np.arange(len(mine))
            order = order[np.argsort(turn[order], kind="stable")]
        return self.at(np.sort(order[:n]))


def load_samples(path: Path | str, model: Model, pixels: str = "unit", skip_bad: bool = False) -> Samples:
    """Read samples and check them against the model's inputs.

    pixels    how images are scaled: unit (0..1), raw (0..255) or imagenet
    skip_bad  leave out images that cannot be read, and name them, instead of refusing all

    Raises BadInput for files that cannot be read or do not fit the model.
    """
    path = Path(path)
    if path.is_dir():
        samples = from_folder(path, model, pixels, skip_bad)
    elif path.suffix == ".csv":
        samples = from_manifest(path, model, pixels, skip_bad)
    else:
        samples = from_npz(path, model)
    return checked(samples, model, path)


def from_npz(path: Path, model: Model) -> Samples:
    """Arrays named like the model's inputs (or x where there is one), y for labels, classes for names.

    mask, beside images, is true where their object is.
    """
    arrays = read_arrays(
        path, "an .npz file, a folder of classes or a .csv manifest", "Save plain arrays x and y with numpy.savez"
    )
    labels, classes = arrays.pop("y", None), arrays.pop("classes", None)
    names = list(model.inputs)
    has_images = [len(s) for s in model.inputs.values()] == [3] and "mask" not in names
    masks = arrays.pop("mask", None) if has_images else None
    if len(names) == 1 and "x" in arrays and names[0] not in arrays:
        arrays[names[0]] = arrays["x"]
    missing = [n for n in names if n not in arrays]
    if missing:
        raise BadInput(
            f"has no array '{missing[0]}'; there are {', '.join(arrays) or 'none'}",
            str(path),
            "Name arrays like the model's inputs, or x",
        )
    inputs = {n: as_float(arrays[n], n, path) for n in names}
    named = () if classes is None else as_names(classes, path)
    objects = None if masks is None else as_masks(masks, inputs[names[0]], path)
    return Samples(path.name, inputs, labels, named, masks=objects)


def as_float(array: NDArray[Any], name: str, path: Path) -> NDArray[np.float32]:
    """Numbers as float32; raises BadInput for others and for NaN."""
    if array.dtype.kind not in "fiub":
        raise BadInput(f"array '{name}' is {array.dtype}, numbers are needed", str(path))
    array = array.astype(np.float32)
    if not np.isfinite(array.sum(dtype=np.float64)) and not np.isfinite(array).all():
        raise BadInput(f"array '{name}' has NaN or infinity", str(path))
    return array


def as_names(classes: NDArray[Any], path: Path) -> tuple[str, ...]:
    """The names of classes; raises BadInput for what is no row of texts or whole numbers."""
    if classes.ndim != 1 or classes.dtype.kind not in "USiu":
        what = f"array 'classes' is {classes.dtype} of shape {list(classes.shape)}, a row of names is needed"
        raise BadInput(what, str(path))
    return tuple(str(c) for c in classes)


def as_masks(masks: NDArray[Any], images: NDArray[np.float32], path: Path) -> NDArray[np.bool_]:
    """Anything but 0 is the object; raises BadInput where there is not one for each image, of its size."""
    wanted = (len(images), *images.shape[2:])
    if masks.dtype.kind not in "fiub" or masks.shape != wanted:
        raise BadInput(f"array 'mask' is {masks.dtype} {masks.shape}, the images need numbers {wanted}", str(path))
    return masks != 0


def from_folder(path: Path, model: Model, pixels: str, skip_bad: bool) -> Samples:
    """One sub-folder for each class, in the order of their names."""
    try:
        classes = sorted(p.name for p in path.iterdir() if p.is_dir())
        inside = [(p, i) for i, c in enumerate(classes) for p in sorted((path / c).iterdir())]
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", str(error.filename or path)) from error
    files = [(p, i) for p, i in inside if p.suffix.lower() in IMAGES]
    if not files:
        raise BadInput("has no images in folders of classes", str(path), "Use FOLDER/class/image.png")
    return from_images(path.name, files, tuple(classes), model, pixels, skip_bad)


def from_manifest(path: Path, model: Model, pixels: str, skip_bad: bool) -> Samples:
    """Rows of file,label with a header; files beside the manifest; labels as numbers or names."""
    text = read_bytes(path, "a .csv manifest").decode("utf-8", errors="replace")
    rows = list(csv.DictReader(io.StringIO(text)))
    if not rows or not {"file", "label"} <= set(rows[0]):
        raise BadInput("needs a header with the columns file,label", str(path))
    names = sorted({r["label"] for r in rows})
    if all(n.isdecimal() for n in names):
        number, classes = {n: int(n) for n in names}, ()
    else:
        number, classes = {n: i for i, n in enumerate(names)}, tuple(names)
    files = [(path.parent / r["file"], number[r["label"]]) for r in rows]
    return from_images(path.name, files, classes, model, pixels, skip_bad)


def from_images(
    name: str,
    files: Sequence[tuple[Path, int]],
    classes: tuple[str, ...],
    model: Model,
    pixels: str,
    skip_bad: bool,
) -> Samples:
    """Images scaled to the model's only input, [n, channels, height, width]."""
    if pixels not in PIXELS:
        raise UsageError(f"unknown pixels '{pixels}'", way_out=f"Use one of {', '.join(PIXELS)}")
    shape = next(iter(model.inputs.values()))
    if len(model.inputs) != 1 or len(shape) != 3 or shape[0] not in (1, 3):
        raise BadInput(f"images do not fit inputs {model.inputs}", name, "Give an .npz file")
    scale, *moved = PIXELS[pixels]
    mean, deviation = (np.array(v[: shape[0]], np.float32)[:, None, None] for v in moved)
    x = np.empty((len(files), *shape), np.float32)
    labels, skipped = list[int](), list[str]()
    for file, label in files:
        try:
            x[len(labels)] = (image_of(file, shape) / np.float32(scale) - mean) / deviation
        except BadInput:
            if not skip_bad:
                raise
            skipped.append(str(file))
        else:
            labels.append(label)
    if not labels:
        raise BadInput(f"none of its {len(files)} images can be read", name)
    inputs = {next(iter(model.inputs)): x[: len(labels)]}
    return Samples(name, inputs, np.array(labels, np.int64), classes, pixels, skipped=tuple(skipped))


def image_of(file: Path, shape: Sequence[int]) -> NDArray[np.float32]:
    """An image at the size of a [channels, height, width], in 0..255; raises BadInput for what is none."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            sized = image.convert("L" if shape[0] == 1 else "RGB").resize(
                (shape[2], shape[1]), Image.Resampling.BILINEAR
            )
            array = np.asarray(sized, np.float32)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        what = f"cannot be read as an image ({type(error).__name__})"
        raise BadInput(what, str(file), "Mend it, or leave such files out with --skip-bad") from error
    return array[None] if shape[0] == 1 else array.transpose(2, 0, 1)


def checked(samples: Samples, model: Model, path: Path) -> Samples:
    """Shapes, counts and labels fit the model; raises BadInput with both sides named."""
    sizes = set()
    for name, wanted in model.inputs.items():
        found = samples.inputs[name].shape
        if found[1:] != wanted:
            shown = ", ".join(["N", *map(str, found[1:])])
            needs = ", ".join(["N", *map(str, wanted)])
            raise BadInput(f"data '{name}' is ({shown}), the model wants ({needs})", str(path))
        sizes.add(found[0])
    if len(sizes) > 1 or sizes == {0}:
        raise BadInput(
            "has no samples" if sizes == {0} else f"inputs have different lengths {sorted(sizes)}", str(path)
        )
    labels = samples.labels
    if labels is None:
        return samples
    classes = scored_classes(model)
    if labels.ndim != 1 or len(labels) != len(samples):
        raise BadInput(f"labels are {labels.shape}, {len(samples)} samples need ({len(samples)},)", str(path))
    if labels.dtype.kind not in "iub":
        raise BadInput(f"labels are {labels.dtype}, class numbers are needed", str(path))
    if classes is not None and (labels.min() < 0 or labels.max() >= classes):
        bad = labels.max() if labels.max() >= classes else labels.min()
        raise BadInput(f"label {bad} is outside the model's {classes} classes (0…{classes - 1})", str(path))
    return replace(samples, labels=labels.astype(np.int64))


def scored_classes(model: Model) -> int | None:
    """Classes that the model's first output [N, classes] scores; None where that is not fixed."""
    return next((int(s) for v in model.graph.outputs for s in list(v.shape or ())[1:2] if isinstance(s, int)), None)


def check_several_classes(samples: Samples, model: Model) -> None:
    """Raise BadInput for labels of one class where the model knows several: units of all others would rank lowest."""
    found = () if samples.labels is None else np.unique(samples.labels)
    of = scored_classes(model) or 1
    if len(found) == 1 and of > 1:
        told = f"has samples of class {found[0]} alone, and the model knows {of}: units of all others would rank lowest"
        raise BadInput(told, samples.name, "Give samples of all classes")


def sha256_of(samples: Samples) -> str:
    """Of the arrays, as the model sees them."""
    found = hashlib.sha256()
    for name, array in sorted(samples.inputs.items()):
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    found.update(b"" if samples.labels is None else samples.labels.tobytes())
    return found.hexdigest()
