"""Decoding images of all kinds, and the size and mode that a pool gets."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_makers import (
    CLASSES,
    Listener,
    Picture,
    encode,
    made,
    pictures,
    samples_table,
    stream_of,
    write_images,
)
from PIL import Image

from metaselect.data.depth import PixelRange
from metaselect.data.images import content_hash, decode, probe, to_pixels
from metaselect.data.readers.base import UnusableContent
from metaselect.data.store import load_pool
from metaselect.data.test_set import read_test_set
from metaselect.data_options import IngestOptions
from metaselect.errors import ArtefactError
from metaselect.run.layout import Run

NOISE = np.random.default_rng(11)


def colour(height: int, width: int) -> np.ndarray:
    return NOISE.integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_content_hash_is_of_pixels_and_not_of_the_file() -> None:
    pixels = colour(5, 7)
    hashes = {content_hash(decode(encode(pixels, kind))) for kind in ("PNG", "BMP", "PPM", "TIFF")}
    assert len(hashes) == 1
    assert hashes != {content_hash(decode(encode(pixels.transpose(1, 0, 2))))}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_exif_orientation_turns_the_image(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    options = {"exif": exif, "lossless": True} if kind == "WEBP" else {"exif": exif, "quality": 100}
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 250
    raw = encode(pixels, kind, **(options if kind != "PNG" else {"exif": exif}))
    shape = probe(raw)
    assert not isinstance(shape, UnusableContent)
    assert shape.size == (8, 16)
    turned = np.asarray(decode(raw))
    assert turned.shape == (16, 8, 3)
    assert turned[:7].min() > 200
    assert turned[9:].max() < 50


def test_modes_become_grey_or_colour() -> None:
    wide = NOISE.integers(0, 65536, (3, 4), dtype=np.uint16)
    full = PixelRange(0, 65535)
    np.testing.assert_array_equal(np.asarray(decode(encode(wide), full)), np.rint(wide / 257))
    assert decode(encode(wide)) == UnusableContent(
        "it has more than 8 bits a pixel, and the images of the run have 8"
    )
    clear = np.zeros((2, 2, 4), np.uint8)
    clear[0, 0] = (10, 20, 30, 255)
    over_white = decode(encode(clear))
    assert over_white.mode == "RGB"
    assert np.asarray(over_white).tolist() == [[[10, 20, 30], [255] * 3], [[255] * 3, [255] * 3]]
    grey_alpha = decode(encode(np.array([[[40, 255], [40, 0]]], np.uint8)))
    assert (grey_alpha.mode, np.asarray(grey_alpha).tolist()) == ("L", [[40, 255]])
    palette = Image.fromarray(colour(4, 4)).quantize(8)
    assert decode(encode(np.asarray(palette.convert("RGB")))).mode == "RGB"
    stream = stream_of(b"")
    palette.save(stream, format="PNG")
    np.testing.assert_array_equal(np.asarray(decode(stream.getvalue())), np.asarray(palette.convert("RGB")))
    bilevel = stream_of(b"")
    Image.new("1", (3, 2), 1).save(bilevel, format="PNG")
    assert np.asarray(decode(bilevel.getvalue())).tolist() == [[255] * 3] * 2


def test_resizing_takes_the_shorter_side_and_the_centre() -> None:
    image = Image.fromarray(np.tile(np.arange(0, 240, 20, dtype=np.uint8), (4, 1)))  # 12 wide, 4 high
    pixels = to_pixels(image, (4, 4), "L")
    np.testing.assert_array_equal(pixels[0], np.asarray(image)[:, 4:8])
    smaller = to_pixels(image, (2, 2), "RGB")
    expected = image.resize((6, 2), Image.Resampling.BILINEAR).crop((2, 0, 4, 2))
    np.testing.assert_array_equal(smaller, np.stack([np.asarray(expected)] * 3))


@pytest.mark.parametrize(("wide", "high"), [(12, 4), (4, 12), (7, 3), (200, 1), (4, 4)])
def test_the_whole_image_stands_on_black_or_is_distorted(wide: int, high: int) -> None:
    white = Image.new("RGB", (wide, high), "white")
    padded = to_pixels(white, (4, 4), "RGB", "pad")
    expected = np.zeros((3, 4, 4), np.uint8)
    longest = max(wide, high)
    across, down = max(1, round(wide * 4 / longest)), max(1, round(high * 4 / longest))
    top, left = (4 - down) // 2, (4 - across) // 2
    expected[:, top : top + down, left : left + across] = 255
    np.testing.assert_array_equal(padded, expected)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (high, wide), np.uint8))
    squashed = to_pixels(picture, (4, 4), "L", "squash")
    np.testing.assert_array_equal(squashed[0], np.asarray(picture.resize((4, 4), Image.Resampling.BILINEAR)))


def test_a_test_set_is_fitted_as_the_pool_was(tmp_path: Path) -> None:
    """White pictures of other proportions: padded ones have a black border in the pool, and in the test set too."""
    samples = [
        Picture(f"{label}/{number}.png", label, encode(np.full((6 + 2 * number, 12, 3), 255, np.uint8)))
        for number, label in enumerate(CLASSES)
    ]
    data, root = write_images(tmp_path / "d", samples), tmp_path / "r"
    ears = Listener()
    pool = load_pool(made(data, root, fit="pad", image_size=12))
    assert {int((image == 0).all(axis=(0, 2)).sum()) for image in pool.inputs} == {6, 4, 2}
    test, _ = read_test_set(data, IngestOptions(), pool, tmp_path / "scratch", ears)
    np.testing.assert_array_equal(test.inputs, pool.inputs)
    with pytest.raises(ArtefactError, match='fit: "pad" -> "crop"'):
        made(data, root, image_size=12)
    cut = load_pool(made(data, tmp_path / "cut", image_size=12))
    assert (cut.inputs == 255).all()


@pytest.mark.parametrize(
    ("sizes", "size", "expected"),
    [
        ([(5, 7), (5, 7)], None, [5, 7]),
        ([(5, 7), (8, 6), (9, 9)], None, [6, 6]),
        ([(300, 400), (500, 260), (240, 900)], None, [224, 224]),
        ([(5, 7), (5, 7)], 4, [4, 4]),
    ],
)
def test_the_size_is_that_of_all_or_the_median_of_the_shorter_sides(
    tmp_path: Path, sizes: Any, size: int | None, expected: Any
) -> None:
    labels = [CLASSES[number % 2] for number in range(len(sizes))]
    samples = [
        Picture(f"{label}/{number}.png", label, encode(colour(*shape)))
        for number, (label, shape) in enumerate(zip(labels, sizes, strict=True))
    ]
    run = made(write_images(tmp_path / "d", samples), tmp_path / "r", image_size=size)
    assert list(load_pool(run).inputs.shape) == [len(sizes), 3, *expected]


@pytest.mark.parametrize(("last", "mode"), [(None, "L"), (colour(6, 6), "RGB")])
def test_the_pool_is_grey_only_if_every_image_is(tmp_path: Path, last: Any, mode: str) -> None:
    samples = pictures(4)
    if last is not None:
        samples[3] = Picture(samples[3].path, samples[3].label, encode(last))
    pool = load_pool(made(write_images(tmp_path / "d", samples), tmp_path / "r"))
    assert pool.preprocess.mode == mode
    sources = [row["source"] for row in samples_table(Run(tmp_path / "r"))]
    first = sources.index(samples[0].path)
    grey = np.asarray(decode(samples[0].raw))
    for channel in pool.inputs[first]:
        np.testing.assert_array_equal(channel, grey)


def test_too_many_pixels_and_formats_that_run_programs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("metaselect.data.images.MAX_PIXELS", 20)
        assert decode(encode(colour(5, 5))) == UnusableContent("it has 5 x 5 pixels, more than 20")
    bomb = encode(np.zeros((1, 1), np.uint8)).replace(b"\0\0\0\1\0\0\0\1", b"\0\1\0\0\0\1\0\0")
    found = decode(bomb)
    assert isinstance(found, UnusableContent)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
    assert decode(eps) == UnusableContent("it is not an image in a known format")
    cut = decode(encode(colour(30, 30), "JPEG")[:-40])
    assert isinstance(cut, UnusableContent)
    assert "truncated" in cut.reason
