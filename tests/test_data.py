"""Samples from every source, checked against the model that reads them."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toolchain.data import Samples, check_several_classes, load_samples
from toolchain.errors import BadInput
from toolchain.model import Model, load
from toolchain.shipped import triangles_squares_path
from toolchain.synthetic import object_masks, triangles_squares


@pytest.fixture(scope="module")
def model() -> Model:
    return load(triangles_squares_path())


def images(folder: Path, names: dict[str, int]) -> None:
    for name, value in names.items():
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((32, 32), value, np.uint8)).save(folder / name)


def test_an_npz_keeps_numbers_labels_and_class_names(model: Model, tmp_path: Path):
    x, y = triangles_squares(6, seed=0)
    np.savez(tmp_path / "d.npz", image=x, y=y.astype(np.uint8), classes=np.array(["triangle", "square"]))
    found = load_samples(tmp_path / "d.npz", model)
    np.testing.assert_array_equal(found.inputs["image"], x)
    np.testing.assert_array_equal(found.labels, y)
    assert found.classes == ("triangle", "square")


def test_masks_of_an_npz_go_with_their_images(model: Model, tmp_path: Path):
    x, y = triangles_squares(30, seed=0)
    masks = object_masks(x)
    np.savez(tmp_path / "d.npz", x=x, y=y, mask=masks.astype(np.uint8))
    found = load_samples(tmp_path / "d.npz", model)
    assert found.masks is not None and found.masks.dtype == bool
    np.testing.assert_array_equal(found.masks, masks)
    picked = found.balanced(7, 0)
    np.testing.assert_array_equal(picked.masks, object_masks(picked.inputs["image"]))
    np.savez(tmp_path / "e.npz", x=x, y=y, mask=masks[:, :16])
    with pytest.raises(BadInput, match=r"'mask' is bool \(30, 16, 32\), the images need numbers \(30, 32, 32\)"):
        load_samples(tmp_path / "e.npz", model)


def test_labelled_images_remember_how_they_became_numbers(model: Model, tmp_path: Path):
    images(tmp_path, {"a/x.png": 0, "b/y.png": 255})
    assert load_samples(tmp_path, model, "raw").pixels == "raw"


def test_a_folder_for_each_class_is_labelled_in_the_order_of_names(model: Model, tmp_path: Path):
    images(tmp_path, {"square/b.png": 255, "square/a.png": 0, "triangle/c.png": 51})
    found = load_samples(tmp_path, model)
    assert found.classes == ("square", "triangle")
    np.testing.assert_array_equal(found.labels, [0, 0, 1])
    np.testing.assert_allclose(found.inputs["image"][:, 0, 0, 0], [0, 1, 0.2], rtol=1e-6)


@pytest.mark.parametrize(("pixels", "value"), [("unit", 0.2), ("raw", 51.0), ("imagenet", (0.2 - 0.485) / 0.229)])
def test_pixels_are_scaled_as_asked(model: Model, tmp_path: Path, pixels: str, value: float):
    images(tmp_path, {"a/x.png": 51})
    np.testing.assert_allclose(load_samples(tmp_path, model, pixels).inputs["image"], value, rtol=1e-5)


def test_a_manifest_takes_numbers_or_names(model: Model, tmp_path: Path):
    images(tmp_path, {"a/x.png": 0, "a/y.png": 255})
    (tmp_path / "n.csv").write_text("file,label\na/x.png,1\na/y.png,0\n")
    (tmp_path / "w.csv").write_text("file,label\na/x.png,triangle\na/y.png,square\n")
    np.testing.assert_array_equal(load_samples(tmp_path / "n.csv", model).labels, [1, 0])
    named = load_samples(tmp_path / "w.csv", model)
    assert named.classes == ("square", "triangle")
    np.testing.assert_array_equal(named.labels, [1, 0])


def test_a_balanced_part_holds_as_many_of_each_class_as_there_are():
    labels = np.array([0] * 50 + [1] * 5 + [2] * 30)
    part = Samples("d", {"x": np.arange(85.0)[:, None]}, labels).balanced(21, seed=0)
    assert np.bincount(part.labels).tolist() == [8, 5, 8]
    np.testing.assert_array_equal(labels[part.inputs["x"][:, 0].astype(int)], part.labels)


def arrays(**changed: object) -> dict[str, object]:
    x, y = triangles_squares(4, seed=0)
    return {k: v for k, v in ({"x": x, "y": y} | changed).items() if v is not None}


x4 = triangles_squares(4, seed=0)[0]
BAD = {
    "no array": (arrays(x=None, z=x4), "has no array 'image'"),
    "shape": (arrays(x=x4[:, :, :8]), r"is \(N, 1, 8, 32\), the model wants \(N, 1, 32, 32\)"),
    "NaN": (arrays(x=np.where(x4 > 0.5, np.nan, x4)), "NaN"),
    "unicode number": (arrays(y=np.array(["a"] * 4)), "class numbers are needed"),
    "pickle": (arrays(y=np.array([object()] * 4)), "pickles are off"),
    "text": (arrays(x=np.full(x4.shape, "a")), "numbers are needed"),
    "labels too many": (arrays(y=np.zeros(5, np.int64)), r"labels are \(5,\)"),
    "labels float": (arrays(y=np.zeros(4)), "class numbers are needed"),
    "labels high": (arrays(y=np.array([0, 1, 2, 0])), "label 2 is outside the model's 2 classes"),
    "labels negative": (arrays(y=np.array([0, -1, 1, 0])), "label -1 is outside"),
    "classes of no row": (arrays(classes=np.array("a")), "a row of names is needed"),
    "classes of no characters": (
        arrays(classes=np.frombuffer(b"\xff\xff\xff\x7f", "<U1")),
        "or damaged",
    ),
    "empty": (arrays(x=x4[:0], y=np.zeros(0, np.int64)), "no samples"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arrays_are_told_in_one_line(model: Model, tmp_path: Path, name: str):
    content, says = BAD[name]
    np.savez(tmp_path / "d.npz", **content)
    with pytest.raises(BadInput, match=says):
        load_samples(tmp_path / "d.npz", model)


def test_a_zip_bomb_is_refused_before_it_expands(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with zipfile.ZipFile(tmp_path / "d.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(1 << 20))
    monkeypatch.setattr("toolchain.arrays.LARGEST", 1 << 16)
    with pytest.raises(BadInput, match="expands to"):
        load_samples(tmp_path / "d.npz", model)


HEADER = "{'descr': '%s', 'fortran_order': False, 'shape': %s}"


@pytest.mark.parametrize(
    ("descr", "shape", "says"),
    [
        ("<f4", "(1099511627776, 1, 8, 8)", "array 'x': declares 262,144.0 GiB but stores 16 bytes"),
        ("<f4", "(-4,)", "array 'x': declares"),
        ("|O", "(2,)", "pickles are off"),
        ("<f4", "(((((((((", "is not an .npz file"),
        ("[('a',", "(2,)", "is not an .npz file"),
    ],
)
def test_an_array_that_is_not_what_its_header_says_is_refused_before_it_is_read(
    descr: str, shape: str, says: str, model: Model, tmp_path: Path
):
    told = (HEADER % (descr, shape)).encode().ljust(118) + b"\n"
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\0" + len(told).to_bytes(2, "little") + told + bytes(16))
    with pytest.raises(BadInput, match=says):
        load_samples(tmp_path / "d.npz", model)


def test_a_broken_image_is_named(model: Model, tmp_path: Path):
    images(tmp_path, {"a/x.png": 0})
    (tmp_path / "a" / "y.png").write_bytes(b"\x89PNG but no more")
    with pytest.raises(BadInput, match=r"y\.png: cannot be read as an image"):
        load_samples(tmp_path, model)


def test_what_is_no_image_is_left_out_and_named_where_that_is_asked(model: Model, tmp_path: Path):
    images(tmp_path, {"a/x.png": 0, "b/z.png": 255})
    whole = load_samples(tmp_path, model)
    (tmp_path / "a" / "y.png").write_bytes(b"\x89PNG but no more")
    found = load_samples(tmp_path, model, skip_bad=True)
    np.testing.assert_array_equal(found.inputs["image"], whole.inputs["image"])
    np.testing.assert_array_equal(found.labels, [0, 1])
    assert found.skipped == (str(tmp_path / "a" / "y.png"),) and whole.skipped == ()


def test_labels_of_one_class_are_refused_where_the_model_knows_several(model: Model):
    inputs = {"image": x4}
    check_several_classes(Samples("d", inputs, np.array([0, 1, 0, 1])), model)
    check_several_classes(Samples("d", inputs, None), model)
    with pytest.raises(BadInput, match="class 1 alone, and the model knows 2"):
        check_several_classes(Samples("d", inputs, np.ones(4, np.int64)), model)
