"""Images of all kinds come out as the right uint8 RGB pixels; bad ones as a sentence."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from maskwell.data.images import image_size, read_image
from maskwell.errors import UserError


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 13, 3)).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_plain_colour_is_untouched(tmp_path: Path, rgb: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(rgb).save(path)
    image = read_image(path)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, rgb)
    assert image_size(path) == (9, 13)


def test_jpeg_equals_pil(tmp_path: Path, rgb: np.ndarray) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), np.asarray(Image.open(tmp_path / "a.jpg")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_exif_orientation_is_applied(tmp_path: Path, rgb: np.ndarray, orientation: int, suffix: str) -> None:
    turned = {
        1: rgb, 2: rgb[:, ::-1], 3: rgb[::-1, ::-1], 4: rgb[::-1],
        5: rgb.transpose(1, 0, 2), 6: np.rot90(rgb, -1),
        7: rgb[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(rgb),
    }  # fmt: skip
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(rgb).save(path, exif=exif)
    np.testing.assert_array_equal(read_image(path), turned[orientation])
    assert image_size(path) == turned[orientation].shape[:2]


@pytest.mark.parametrize(("bits", "top"), [(8, 255), (12, 4095), (16, 65535)])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_deep_grey_is_scaled_from_its_depth(tmp_path: Path, bits: int, top: int, suffix: str) -> None:
    deep = np.linspace(0, top, 24).reshape(4, 6).astype(np.uint16)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(deep).save(path)
    expected = np.rint(deep / (2**bits - 1) * 255)
    np.testing.assert_array_equal(read_image(path), np.repeat(expected[..., None], 3, 2))


def test_deep_colour(tmp_path: Path, rgb: np.ndarray) -> None:
    deep = rgb.astype(np.uint16) * 257
    deep[0, 0] = 65535
    cv2.imwrite(str(tmp_path / "a.png"), deep[..., ::-1])
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb")
    tifffile.imwrite(tmp_path / "b.tif", deep.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    expected = rgb.copy()
    expected[0, 0] = 255
    cv2.imwrite(str(tmp_path / "lzw.tif"), deep[..., ::-1])
    for name in ("a.png", "a.tif", "b.tif", "lzw.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name), expected)
        assert image_size(tmp_path / name) == (9, 13)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_colour_is_turned_as_plain_colour_is(tmp_path: Path, rgb: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(rgb).save(tmp_path / "plain.tif", exif=exif)
    tag = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "deep.tif", rgb.astype(np.uint16) * 257, photometric="rgb", extratags=tag)
    np.testing.assert_array_equal(read_image(tmp_path / "deep.tif"), read_image(tmp_path / "plain.tif"))
    assert image_size(tmp_path / "deep.tif") == read_image(tmp_path / "deep.tif").shape[:2]


def test_float_tiff(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    tifffile.imwrite(tmp_path / "a.tif", values)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 0], np.rint(values * 255))


def test_grey_palette_bilevel_and_cmyk(tmp_path: Path, rgb: np.ndarray) -> None:
    grey = Image.fromarray(rgb[..., 0])
    grey.save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.repeat(rgb[..., :1], 3, 2))
    palette = Image.fromarray(rgb).convert("P", palette=Image.Palette.ADAPTIVE)
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), np.asarray(palette.convert("RGB")))
    grey.convert("1").save(tmp_path / "bilevel.png")
    assert set(np.unique(read_image(tmp_path / "bilevel.png"))) == {0, 255}
    cmyk = Image.fromarray(np.full((8, 8, 3), (200, 40, 90), np.uint8)).convert("CMYK")
    cmyk.save(tmp_path / "cmyk.jpg", quality=98)
    cmyk.save(tmp_path / "cmyk.tif")
    for name in ("cmyk.jpg", "cmyk.tif"):
        assert np.abs(read_image(tmp_path / name).astype(int) - (200, 40, 90)).max() <= 3


def test_transparency_is_laid_on_white(tmp_path: Path, rgb: np.ndarray) -> None:
    alpha = np.zeros((9, 13), np.uint8)
    alpha[:, :6], alpha[:, 6] = 255, 51
    Image.fromarray(np.dstack([rgb, alpha])).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image[:, :6], rgb[:, :6])
    assert (image[:, 7:] == 255).all()
    blend = rgb[:, 6] * 0.2 + 255 * 0.8
    assert np.abs(image[:, 6] - blend).max() <= 1


def test_first_page_of_several(tmp_path: Path, rgb: np.ndarray) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.tif", save_all=True, append_images=[Image.fromarray(255 - rgb)])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), rgb)


def _bomb(side: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [14_000, 60_000])
def test_decompression_bomb_is_refused_unread(tmp_path: Path, side: int) -> None:
    (tmp_path / "bomb.png").write_bytes(_bomb(side))
    with pytest.raises(UserError, match=r"bomb\.png.*decompression bomb"):
        read_image(tmp_path / "bomb.png")


def test_missing_cut_off_and_foreign_files(tmp_path: Path, rgb: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"none\.png.*does not exist"):
        read_image(tmp_path / "none.png")
    with pytest.raises(UserError, match=r"none\.png.*does not exist"):
        image_size(tmp_path / "none.png")
    big = np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    for suffix in ("png", "jpg", "tif"):
        buffer = io.BytesIO()
        Image.fromarray(big).save(buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()))
        (tmp_path / f"half.{suffix}").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
        with pytest.raises(UserError, match=rf"half\.{suffix}.*cannot be decoded"):
            read_image(tmp_path / f"half.{suffix}")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(UserError, match=r"text\.png.*cannot be decoded"):
        read_image(tmp_path / "text.png")


def test_damage_in_the_middle_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    (tmp_path / "damaged.png").write_bytes(data)
    with pytest.raises(UserError, match=r"damaged\.png.*cannot be decoded"):
        read_image(tmp_path / "damaged.png")
