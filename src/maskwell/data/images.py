"""Image files of all kinds as uint8 RGB: the one way in, for training and for prediction."""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from maskwell.errors import UserError
from maskwell.reading import IMAGE_BYTES, read_bytes

MAX_PIXELS = 178_956_970
"""Largest image that is decoded (0.5 GiB as RGB); above it a file counts as a decompression bomb."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".pgm"})
"""File names that are taken for images in a folder."""

_ORIENTATION = 274  # EXIF tag
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Decode an image to uint8 RGB [H, W, 3].

    EXIF orientation is applied. Integers of more than 8 bits are scaled linearly from the smallest
    usual depth (10, 12, 14, 16 bits) that holds the image's largest value; floats in [0, 1] from
    that range. Transparent pixels are laid on white. CMYK and palettes are converted. Of a file
    with several pages the first is read.

    Raises:
        UserError: the file is missing, does not decode or is a decompression bomb.
    """
    data = _read_bytes(Path(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(data)
    except Image.DecompressionBombError as error:
        raise _bomb(path) from error
    except Exception as error:  # of a damaged file decoders raise whatever comes up in them
        raise _undecodable(path, error) from error


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) as :func:`read_image` would return it, from the file's header where possible.

    Raises:
        UserError: as :func:`read_image`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                width, height = image.size
                # PIL turns the size of a TIFF itself.
                turned = image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) >= 5
    except FileNotFoundError as error:
        raise UserError(f"The image '{path}' does not exist.") from error
    except Image.DecompressionBombError as error:
        raise _bomb(path) from error
    except Exception:  # as above
        shape = read_image(path).shape
        return shape[0], shape[1]
    return (width, height) if turned else (height, width)


def _undecodable(path: str | Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(f"The image '{path}' cannot be decoded ({reason}); replace or remove it.")


def _bomb(path: str | Path) -> UserError:
    return UserError(
        f"The image '{path}' claims more than {MAX_PIXELS / 1e6:.0f} million pixels, which is refused as a "
        "decompression bomb; cut it into smaller files."
    )


def _read_bytes(path: Path) -> bytes:
    if not path.exists():
        raise UserError(f"The image '{path}' does not exist.")
    return read_bytes(path, IMAGE_BYTES)


def _decode(data: bytes) -> NDArray[np.uint8]:
    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        if data[:4] in _TIFF_STARTS:
            return _to_rgb(_decode_tiff(data))
        raise ValueError("its content is no known image format") from None
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        if _is_deep_colour(image, data):
            return _to_rgb(_upright(_decode_deep(image, data), _orientation(image, data)))
        if _is_plain(image, data):
            # The same pixels as PIL, in half the time.
            plain = cv2.imdecode(
                np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
            )
            if plain is not None:
                return np.asarray(cv2.cvtColor(plain, cv2.COLOR_BGR2RGB), np.uint8)
        return from_pil(image)


def _is_deep_colour(image: Image.Image, data: bytes) -> bool:
    """Colour of 16 bits, which PIL cuts to 8 and, where the planes lie apart, reads wrongly."""
    if image.format == "TIFF":
        bits = image.tag_v2.get(258, (8,))  # type: ignore[attr-defined]
        return isinstance(bits, tuple) and len(bits) > 1 and max(bits) > 8
    return image.format == "PNG" and data[24] == 16 and data[25] in (2, 6)  # bit depth, colour types


def _decode_deep(image: Image.Image, data: bytes) -> NDArray[np.generic]:
    if image.format == "TIFF":
        compressed = image.tag_v2.get(259, 1) != 1  # type: ignore[attr-defined]
        apart = image.tag_v2.get(284, 1) == 2  # type: ignore[attr-defined]
        if apart or not compressed:
            return _decode_tiff(data)
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if array is None:
        raise ValueError("damaged 16-bit data")
    return np.asarray(array[..., [2, 1, 0, 3][: array.shape[2]]])


def _upright(array: NDArray[np.generic], orientation: int) -> NDArray[np.generic]:
    """Undo an EXIF orientation: 5 to 8 are transposed, then mirrored along one or both sides."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    rows = orientation in (3, 4, 7, 8)
    columns = orientation in (2, 3, 6, 7)
    return array[:: -1 if rows else 1, :: -1 if columns else 1]


def _is_plain(image: Image.Image, data: bytes) -> bool:
    """8-bit RGB or grey, whole, upright, nothing transparent: no conversion that could differ."""
    end = _ENDS.get(image.format or "")
    return (
        end is not None
        and data.rstrip(b"\0")[-len(end) :] == end
        and image.mode in ("RGB", "L")
        and "transparency" not in image.info
        and _orientation(image, data) == 1
    )


def _orientation(image: Image.Image, data: bytes) -> int:
    if image.format == "PNG" and b"eXIf" not in data and b"Raw profile type" not in data:
        return 1  # PIL would decode the whole file to look for it
    return int(image.getexif().get(_ORIENTATION, 1))


def from_pil(image: Image.Image) -> NDArray[np.uint8]:
    """A PIL image as uint8 RGB [H, W, 3], by the rules of :func:`read_image`."""
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return _to_rgb(np.asarray(image))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def _decode_tiff(data: bytes) -> NDArray[np.generic]:
    """First page of a TIFF that PIL does not know, such as 16-bit colour."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        # the sizes that the page claims for itself, and for each of its tiles or strips
        if max(page.size, page.nbytes // 8, math.prod(page.chunks)) > MAX_PIXELS:
            raise Image.DecompressionBombError
        array = np.asarray(page.asarray())
        if array.ndim == 3 and page.axes.startswith("S"):  # planes apart: [C, H, W]
            array = array.transpose(1, 2, 0)
        return array


def _to_rgb(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Grey [H, W] or colour [H, W, C] of any number type -> uint8 RGB."""
    if array.ndim not in (2, 3):
        raise ValueError(f"an array of {array.ndim} dimensions is no image")
    array = _to_uint8(array)
    if array.ndim == 2:
        array = array[..., None]
    channels = array.shape[2]
    colour = array[..., :3] if channels >= 3 else np.repeat(array[..., :1], 3, axis=2)
    if channels in (2, 4):
        alpha = array[..., -1:].astype(np.float32) / 255
        colour = np.asarray(np.rint(colour * alpha + 255 * (1 - alpha)), np.uint8)
    return np.ascontiguousarray(colour)


def _to_uint8(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return np.asarray(array, np.uint8)
    values = np.nan_to_num(array.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0).clip(min=0)
    top = float(values.max(initial=0))
    if np.issubdtype(array.dtype, np.floating) and top <= 1:
        limit = 1.0
    else:
        limit = float(next((2**bits - 1 for bits in (8, 10, 12, 14, 16) if top < 2**bits), top))
    return np.asarray(np.rint(values * (255 / limit)), np.uint8)
