"""A bounded store of pixels, shared by threads."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_SLAB_BYTES = 2**24


@dataclass
class _Group:
    """Pixels that come and go together, side by side in large pieces of memory.

    Kept one by one, they would lie between what decoding takes and gives back, and the gaps cost a tenth of the
    memory. Of a piece only what was written to counts as taken.
    """

    entries: dict[Hashable, NDArray[np.uint8]] = field(default_factory=dict)
    num_bytes: int = 0
    _slab: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, dtype=np.uint8))

    def add(self, key: Hashable, pixels: NDArray[np.uint8]) -> None:
        """Keep a copy."""
        size = pixels.nbytes
        if size > self._slab.nbytes:
            self._slab = np.frombuffer(mmap.mmap(-1, max(size, _SLAB_BYTES)), dtype=np.uint8)
        kept = self._slab[:size].reshape(pixels.shape)
        self._slab = self._slab[size:]
        kept[...] = pixels
        self.entries[key] = kept
        self.num_bytes += size


class ImageCache:
    """Keeps pixels by group and key while a budget lasts.

    Inside a group what came first stays: epochs pass over all images in turn, and dropping the oldest would then
    drop each just before it is wanted. To make room for a group, the groups that were not used for longest go.
    """

    def __init__(self, budget_bytes: int) -> None:
        """Start empty; `budget_bytes` is the most that is kept."""
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self._groups: dict[Hashable, _Group] = {}
        self._lock = threading.Lock()

    def get(self, group: Hashable, key: Hashable) -> NDArray[np.uint8] | None:
        """Return what is kept, in the shape that it had, or None; the group counts as used."""
        with self._lock:
            if group not in self._groups:
                return None
            self._groups[group] = self._groups.pop(group)  # a dict remembers the order: the last is the latest
            return self._groups[group].entries.get(key)

    def put(self, group: Hashable, key: Hashable, pixels: NDArray[np.uint8]) -> bool:
        """Keep a copy of the pixels, not empty, if the budget allows; return whether they are kept."""
        with self._lock:
            kept = self._groups.get(group, _Group())
            if pixels.nbytes + kept.num_bytes > self.budget_bytes:
                return False
            if key in kept.entries:
                return True
            for other in [name for name in self._groups if name != group]:
                if self.used_bytes + pixels.nbytes <= self.budget_bytes:
                    break
                self.used_bytes -= self._groups.pop(other).num_bytes
            self._groups[group] = kept
            kept.add(key, pixels)
            self.used_bytes += pixels.nbytes
            return True
