"""Evaluation crops on disk, found again by the content of the image file alone."""

from __future__ import annotations

import hashlib
import platform
from importlib import resources

import PIL
import torch
from PIL import features
from torch import Tensor

from clipfit_cli.data.pixels.disk_cache import DiskCache
from clipfit_cli.data.pixels.transforms import ImageSpec

_CODE = ("files/decode.py", "pixels/transforms.py")
_CODECS = ("jpg", "libjpeg_turbo", "webp", "avif", "libtiff", "jpg_2000")


class CropCache:
    """Crops in a `DiskCache`, each under the hash of everything that decides its pixels.

    The image file is read and hashed each time; what is saved is decoding and resizing. No path, size or date of
    a file is trusted, so that a changed file cannot be answered with the crop of the old one.

    Attributes:
        disk: Where the entries are; what is made of the crops may be kept there too.
    """

    def __init__(self, disk: DiskCache) -> None:
        """Keep the folder's cache; the code that makes pixels is hashed now."""
        self.disk = disk
        self._code_version = code_version()

    def get(self, key: str, size: int) -> Tensor | None:
        """Return the centre crop, uint8 (3, size, size), of a key that `key` gave, or None."""
        shape = (3, size, size)
        found = self.disk.get(key, 3 * size * size)
        return None if found is None else torch.frombuffer(found, dtype=torch.uint8).view(shape)

    def put(self, key: str, crop: Tensor) -> None:
        """Keep a crop, uint8 (3, size, size), if disk and limit allow."""
        self.disk.put(key, crop.numpy().tobytes())

    def key(self, content: bytes, spec: ImageSpec) -> str:
        """Return the hash, 64 hexadecimal digits, of all that decides the pixels of a crop.

        That is the content of the image file, the size and filter, and the code: Pillow, its codecs, ours.
        """
        digest = hashlib.sha256(f"{self._code_version} {spec.size} {spec.interpolation} {spec.resize_mode} ".encode())
        digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()


def code_version() -> str:
    """Return the hash of the code that makes pixels; a cache has to forget them when it changes."""
    parts = [platform.machine(), PIL.__version__, *(f"{name}={features.version(name)}" for name in _CODECS)]
    digest = hashlib.sha256(" ".join(parts).encode())
    for name in _CODE:
        digest.update((resources.files("clipfit_cli.data") / name).read_bytes())
    return digest.hexdigest()
