"""From a file to RGB pixels, with one clear error for everything that is not a sound image."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from clipfit_cli.errors import DataError

MAX_PIXELS = 178_956_970
"""Larger images are refused; the size at which Pillow, too, takes a file for a decompression bomb."""

MAX_ASPECT = 1000
"""Longer images are refused: the resize of the shorter side would blow them up without bound."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""What is decoded, by content, whatever a file is called; others of Pillow's plugins start programs."""

_START_OF_SCAN, _SEGMENTS = 0xDA, range(0xC0, 0xFF)
# Comments and application segments, but for JFIF (E0) and Adobe's (EE), which says how colours are coded.
_METADATA = {0xFE} | set(range(0xE1, 0xF0)) - {0xEE}

_OPEN_LOCK = threading.Lock()


def decode_content(content: bytes, path: Path | str) -> Image.Image:
    """Return the image that a file's content stands for, as RGB, first frame, at its stored size.

    Only pixels count: the orientation in the metadata is not applied (the reference does not), transparency is
    dropped, and 16-bit grey keeps its upper eight bits.

    Args:
        content: Of the whole file.
        path: What error messages call it.

    Raises:
        DataError: The content is empty, truncated, not an image, of 32-bit pixels, or too large.
    """
    if not content:
        raise DataError(f"image {path} is empty (0 bytes)", path=path)
    try:
        image = _open(content)
        _check_size(image.size)
        return _to_rgb(image)
    except DataError as error:
        raise DataError(f"image {path} {error}", path=path) from None
    except UnidentifiedImageError:
        raise DataError(f"image {path} is not in a known image format ({', '.join(FORMATS)})", path=path) from None
    except Exception as error:  # Pillow's plugins raise what they like on a damaged file
        raise DataError(f"image {path} is damaged: {str(error) or type(error).__name__}", path=path) from error


def _open(content: bytes) -> Image.Image:
    """Return the image with its header read, without Pillow's own size check.

    That check warns from half its limit on, and warnings cannot be muted in one thread alone.
    """
    with _OPEN_LOCK:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(_without_metadata(content)), formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _without_metadata(content: bytes) -> bytes:
    """Return a JPEG without EXIF, colour profile and the like, anything else as it is.

    None of it changes a pixel here, and Pillow warns where it is corrupt, as it is in many a photograph.
    """
    if not content.startswith(b"\xff\xd8\xff"):
        return content
    kept, at = [content[:2]], 2
    while content[at : at + 1] == b"\xff" and len(content) > at + 4:
        marker, end = content[at + 1], at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if marker == _START_OF_SCAN or marker not in _SEGMENTS:
            break
        if marker not in _METADATA:
            kept.append(content[at:end])
        at = end
    return b"".join((*kept, content[at:]))


def _check_size(size: tuple[int, int]) -> None:
    """Refuse an image that would fill the memory."""
    width, height = size
    if width * height > MAX_PIXELS:
        raise DataError(f"is too large: {width} x {height} pixels, at most {MAX_PIXELS:,} are accepted")
    if max(size) > MAX_ASPECT * min(size):
        raise DataError(f"is too elongated: {width} x {height} pixels")


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return the pixels as RGB."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        # Pillow would clip to 255; 16-bit colour it cuts to the upper byte, so grey is treated alike.
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise DataError("has 32-bit pixels, whose range is not known; convert it to 8 bits")
    if image.mode == "RGB":
        image.load()
        return image
    image.info.pop("transparency", None)  # else Pillow warns that it is lost
    return image.convert("RGB")


def rgb_of(picture: Image.Image) -> Image.Image:
    """Return an image that is open already as RGB, as `decode_content` does it; the picture itself is not changed.

    Raises:
        DataError: It is damaged, too large, of 32-bit pixels, or in a format that is not decoded here.
    """
    name = f"image {getattr(picture, 'filename', '') or 'in memory'}"
    try:
        if picture.format not in (*FORMATS, "MPO", None):  # an EPS would start a program; an MPO is a JPEG
            raise DataError(f"is in the format {picture.format}; expected one of {', '.join(FORMATS)}")
        _check_size(picture.size)
        return _to_rgb(picture if picture.mode == "RGB" else picture.copy())
    except DataError as error:
        raise DataError(f"{name} {error}") from None
    except Exception as error:  # Pillow reads the pixels only now, and its plugins raise what they like
        raise DataError(f"{name} is damaged: {str(error) or type(error).__name__}") from error
