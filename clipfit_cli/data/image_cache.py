"""A bounded store of pixels, shared by threads."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Generic, TypeVar

Pixels = TypeVar("Pixels")


class ImageCache(Generic[Pixels]):
    """Keeps pixels by group and key while a budget lasts.

    Inside a group what came first stays: epochs pass over all images in turn, and dropping the oldest would then
    drop each just before it is wanted. To make room for a group, the groups that were not used for longest go.
    """

    def __init__(self, budget_bytes: int) -> None:
        """Start empty; `budget_bytes` is the most that is kept."""
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self._groups: dict[Hashable, dict[Hashable, Pixels]] = {}
        self._group_bytes: dict[Hashable, int] = {}
        self._lock = threading.Lock()

    def get(self, group: Hashable, key: Hashable) -> Pixels | None:
        """Return what is kept, or None; the group counts as used."""
        with self._lock:
            entries = self._groups.pop(group, None)
            if entries is None:
                return None
            self._groups[group] = entries  # a dict remembers the order: the last is the latest
            return entries.get(key)

    def put(self, group: Hashable, key: Hashable, pixels: Pixels, num_bytes: int) -> bool:
        """Keep the pixels if the budget allows; return whether they are kept."""
        with self._lock:
            if num_bytes + self._group_bytes.get(group, 0) > self.budget_bytes:
                return False
            if key in self._groups.get(group, {}):
                return True
            for other in [name for name in self._groups if name != group]:
                if self.used_bytes + num_bytes <= self.budget_bytes:
                    break
                del self._groups[other]
                self.used_bytes -= self._group_bytes.pop(other)
            self._groups.setdefault(group, {})[key] = pixels
            self._group_bytes[group] = self._group_bytes.get(group, 0) + num_bytes
            self.used_bytes += num_bytes
            return True
