"""Every mode of image that turns up in data sets, and every kind of damage."""

from __future__ import annotations

import io
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipfit_cli.data.files.decode import FORMATS, MAX_PIXELS, rgb_of
from clipfit_cli.data.files.folder import ImageFolder
from clipfit_cli.data.files.identity import MAX_BYTES
from clipfit_cli.errors import DataError

RED_OVER_BLUE = np.array([[[255, 0, 0]] * 3, [[0, 0, 255]] * 3], dtype=np.uint8)


def pixels(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return the decoded pixels (height, width, 3)."""
    image = ImageFolder(path.parent)(path.name)
    assert image.mode == "RGB"
    return np.asarray(image)


def png_header(width: int, height: int) -> bytes:
    """Return a grey PNG that claims a size and holds no pixels."""
    chunks = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
            (b"IDAT", zlib.compress(b"")),
            (b"IEND", b""),
        )
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "WEBP", "TIFF"])
def test_rgb(file_format: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    Image.fromarray(RED_OVER_BLUE).save(path, format=file_format, lossless=True)
    assert (pixels(path) == RED_OVER_BLUE).all()


@pytest.mark.parametrize(("mode", "low", "high"), [("L", 10, 200), ("1", 0, 255)])
def test_grey(mode: str, low: int, high: int, tmp_path: Path) -> None:
    grey = Image.new("L", (3, 2), low)
    grey.paste(high, (0, 0, 3, 1))
    grey.convert(mode).save(tmp_path / "grey.png")
    assert (pixels(tmp_path / "grey.png")[:, 0] == [[high] * 3, [low] * 3]).all()


def test_rgba_drops_transparency_before_any_resize(tmp_path: Path) -> None:
    image = Image.fromarray(RED_OVER_BLUE).convert("RGBA")
    image.putalpha(0)
    image.save(tmp_path / "clear.png")
    assert (pixels(tmp_path / "clear.png") == RED_OVER_BLUE).all()


@pytest.mark.parametrize("transparency", [0, b"\x00\x80"])
def test_palette_with_transparency(transparency: int | bytes, tmp_path: Path) -> None:
    image = Image.new("P", (3, 2), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, 3, 1))
    image.save(tmp_path / "palette.png", transparency=transparency)
    with Image.open(tmp_path / "palette.png") as stored:
        assert stored.mode == "P" and "transparency" in stored.info
    assert (pixels(tmp_path / "palette.png") == RED_OVER_BLUE).all()


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 8), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=95)
    assert (abs(pixels(tmp_path / "cmyk.jpg").astype(int) - [255, 0, 0]) < 6).all()


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_keep_the_upper_eight(file_format: str, tmp_path: Path) -> None:
    ramp = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    path = tmp_path / "deep"
    Image.fromarray(ramp).save(path, format=file_format)
    assert pixels(path).tolist() == [[[0] * 3, [0] * 3, [1] * 3, [128] * 3, [255] * 3]]


def test_thirty_two_bits_are_refused(tmp_path: Path) -> None:
    Image.new("F", (3, 2), 0.5).save(tmp_path / "float.tiff")
    with pytest.raises(DataError, match=r"float.tiff has 32-bit pixels"):
        ImageFolder(tmp_path)("float.tiff")


def test_orientation_in_the_metadata_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RED_OVER_BLUE).save(tmp_path / "turned.png", exif=exif)
    assert (pixels(tmp_path / "turned.png") == RED_OVER_BLUE).all()


def test_corrupt_metadata_neither_warns_nor_counts(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x05\x00\x1a\x01\x05\x00\x01\x00"
    noise.save(tmp_path / "plain.jpg")
    noise.save(tmp_path / "corrupt.jpg", exif=exif, comment=b"x" * 70, icc_profile=b"y" * 90)
    with pytest.warns(UserWarning, match="Corrupt EXIF data"), Image.open(tmp_path / "corrupt.jpg") as opened:
        assert opened.size == (32, 24)
    assert (pixels(tmp_path / "corrupt.jpg") == pixels(tmp_path / "plain.jpg")).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_pixels_are_pillows(mode: str, progressive: bool, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    noise.convert(mode).save(tmp_path / "a.jpg", progressive=progressive, exif=b"Exif\x00\x00", comment=b"no")
    with Image.open(tmp_path / "a.jpg") as opened:
        assert (pixels(tmp_path / "a.jpg") == np.asarray(opened.convert("RGB"))).all()


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert (pixels(tmp_path / "moving.gif") == [255, 0, 0]).all()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a/b.jpg is missing") as caught:
        ImageFolder(tmp_path)("a/b.jpg")
    assert caught.value.path == tmp_path / "a/b.jpg"


def test_folder_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        ImageFolder(tmp_path.parent)(tmp_path.name)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "WEBP"])
def test_truncated(file_format: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format=file_format)
    path = tmp_path / "cut"
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(DataError, match=r"cut is (damaged: |not in a known)") as caught:
        ImageFolder(path.parent)(path.name)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"<html>not found</html>", "is not in a known image format"),
        (b"\x89PNG\r\n\x1a\n", "is (damaged|not in a known)"),
        (png_header(40, 30), "is damaged"),
        (png_header(20000, 20000), "is too large: 20000 x 20000 pixels, at most 178,956,970 are accepted"),
        (png_header(100000, 3), "is too elongated: 100000 x 3 pixels"),
    ],
)
def test_not_an_image(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        ImageFolder(path.parent)(path.name)
    assert str(path) in str(caught.value) and caught.value.exit_code == 3


def test_large_images_pass_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("RGB", (13, 11)).save(tmp_path / "warned.png")
    Image.new("RGB", (100, 50)).save(tmp_path / "refused.png")
    assert ImageFolder(tmp_path)("warned.png").size == (13, 11)
    assert ImageFolder(tmp_path)("refused.png").size == (100, 50)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_limit_is_pillows_own() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert 2 * Image.MAX_IMAGE_PIXELS == MAX_PIXELS


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1", "CMYK", "LA"])
def test_an_open_picture_gives_the_pixels_of_its_file(mode: str, tmp_path: Path) -> None:
    file = tmp_path / "image.tif"
    Image.fromarray(RED_OVER_BLUE).convert(mode).save(file)
    with Image.open(file) as picture:
        found = rgb_of(picture)
        assert found.mode == "RGB" and picture.mode == mode
    assert (np.asarray(found) == pixels(file)).all()


def test_open_pictures_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="image in memory has 32-bit pixels"):
        rgb_of(Image.new("F", (3, 2)))
    with pytest.raises(DataError, match="image in memory is too elongated: 2 x 3000 pixels"):
        rgb_of(Image.new("RGB", (2, 3000)))
    file = tmp_path / "cut.png"
    Image.effect_noise((90, 90), 50).save(file)
    file.write_bytes(file.read_bytes()[:900])
    with Image.open(file) as picture, pytest.raises(DataError, match=r"image .*cut\.png is damaged"):
        rgb_of(picture)


def eps() -> bytes:
    """Return PostScript that Pillow, where Ghostscript is installed, would have drawn."""
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n0 0 10 10 rectfill\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".eps"])
def test_postscript_is_never_drawn(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *args, **kwargs: pytest.fail("a program was started"))
    file = tmp_path / f"cat{suffix}"
    file.write_bytes(eps())
    with pytest.raises(DataError, match="not in a known image format"):
        ImageFolder(file.parent)(file.name)
    with Image.open(file) as picture, pytest.raises(DataError, match="is in the format EPS; expected one of JPEG, PNG"):
        rgb_of(picture)


def test_formats_go_by_content(tmp_path: Path) -> None:
    pixel = Image.fromarray(RED_OVER_BLUE)
    refused = {"TGA", "PCX", "SGI", "ICO", "DIB", "MSP", "SPIDER"}
    for name in (*FORMATS, *refused):
        file = tmp_path / "image.jpg"
        own = tmp_path / "image.own"  # Pillow takes a suffix that it saved SPIDER under for SPIDER's from then on
        (pixel.convert("1") if name == "MSP" else pixel.convert("F") if name == "SPIDER" else pixel).save(own, name)
        own.replace(file)
        if name in refused:
            with pytest.raises(DataError, match="not in a known image format"):
                ImageFolder(file.parent)(file.name)
        else:
            assert ImageFolder(file.parent)(file.name).size == (3, 2)


@pytest.mark.skipif(sys.platform == "win32", reason="has no pipes")
def test_pipes_devices_and_huge_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero")):
        with pytest.raises(DataError, match=f"image {path} cannot be read: it is no regular file"):
            ImageFolder(path.parent)(path.name)
    (tmp_path / "huge.png").touch()
    os.truncate(tmp_path / "huge.png", MAX_BYTES + 1)
    with pytest.raises(DataError, match=r"huge\.png cannot be read: it has 1,073,741,825 bytes, at most"):
        ImageFolder(tmp_path)("huge.png")
