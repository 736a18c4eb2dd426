"""How many images go through a model at a time, and what happens when they do not fit into memory."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

_T = TypeVar("_T")

_WORDS = ("can't allocate memory", "not enough memory", "ALLOC_FAILED")
"""By which torch's CPU allocator (Linux and macOS, Windows) and CUDA's libraries say that memory ran out."""

OnSmaller = Callable[[int, int], object]
"""Told (images at a time before, and from now on)."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out.

    Linux often grants more than there is and then ends the process without an error, which nothing here can see.
    """
    says_so = isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)
    return says_so or isinstance(error, torch.OutOfMemoryError | MemoryError)


class MicroBatches:
    """The number of images that go through a model at a time; halved whenever memory runs out.

    Attributes:
        size: The most at a time; it never grows.
    """

    def __init__(self, size: int, on_smaller: OnSmaller | None = None) -> None:
        """Begin with whole batches.

        Args:
            size: Of the largest batch.
            on_smaller: Told when fewer images at a time were enough after memory had run out.
        """
        self.size = size
        self._on_smaller = on_smaller

    def run(self, num_images: int, work: Callable[[int], _T]) -> _T:
        """Return what `work` makes of a batch.

        Args:
            num_images: Of the batch.
            work: Called with the number of images at a time, and again with half of it where memory ran out; has to
                begin anew each time, and to leave nothing behind where it fails.

        Raises:
            RuntimeError: Memory ran out with a single image (or MemoryError), or anything else went wrong.
        """
        before = now = min(self.size, num_images)
        while True:
            try:
                result = work(now)
                break
            except (RuntimeError, MemoryError) as error:
                if now == 1 or not is_out_of_memory(error):
                    raise
            # not in the handler: the error holds on to what the failed attempt had computed
            now //= 2
            gc.collect()
            torch.cuda.empty_cache()
        if now < before:
            self.size = now
            if self._on_smaller:
                self._on_smaller(before, now)
        return result
