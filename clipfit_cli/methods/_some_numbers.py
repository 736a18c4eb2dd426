"""Some numbers of CLIP's own parameters, drawn by lot: only they are set, all others stay bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from clipfit_cli.methods._tuned_encoders import TunedEncoders
from clipfit_cli.methods.base import Group


def num_of(num_all: int, pct: float) -> int:
    """Return how many of so many numbers a share is, in percent: rounded, halves up, and 1 at least."""
    return max(1, int(Fraction(str(pct)) * num_all / 100 + Fraction(1, 2)))


def drawn(sizes: Mapping[str, int], pct: float, seed: int) -> dict[str, Tensor]:
    """Return positions (num_drawn,), ascending, in each tensor of which a number is drawn.

    Each number has a rank by lot that depends on the seed, its tensor's name and its place alone; those of the lowest
    ranks are drawn, so that a smaller share is part of a larger one.

    Args:
        sizes: Name of each tensor -> its numbers.
        pct: Their share, above 0, up to 100; see `num_of`.
        seed: Of the run.
    """
    lots = torch.cat([_lots(name, size, seed) for name, size in sizes.items()])
    chosen = torch.zeros(len(lots), dtype=torch.bool)
    chosen[lots.argsort(stable=True)[: num_of(len(lots), pct)]] = True
    parts = zip(sizes, torch.split(chosen, list(sizes.values())), strict=True)
    return {name: part.nonzero().flatten() for name, part in parts if part.any()}


def _lots(name: str, size: int, seed: int) -> Tensor:
    words = repr((seed, name)).encode()
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(words).digest()[:7], "big"))
    return torch.rand(size, generator=generator, dtype=torch.float64)


class PartlyTuned(TunedEncoders):
    """The same as `TunedEncoders` where an optimiser sees no other numbers than those that train.

    They stand in vectors of their own, which are written into CLIP's parameters before these are used; so neither
    decay nor momentum can move a number that does not train.
    """

    def __init__(self, *arguments: Any, positions: Mapping[str, Tensor], **options: Any) -> None:
        """Take the numbers out.

        Args:
            arguments, options: Of `TunedEncoders`; all tensors of `positions` are among those that train.
            positions: Of the numbers that train in each tensor, as `drawn` returns them.
        """
        super().__init__(*arguments, **options)
        self._positions = {name: places.to(self._trained[name].device) for name, places in positions.items()}
        self._numbers = {name: nn.Parameter(self._taken(name)) for name in positions}
        for name, parameter in self._trained.items():
            parameter.requires_grad_(name in positions)
            if name in positions:
                cast(Any, parameter).register_post_accumulate_grad_hook(self._hand_on(name))

    def parameters(self) -> list[Group]:
        return [Group(list(self._numbers.values()))]

    def loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        self._put()
        return super().loss(inputs, labels)

    def class_features(self, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
        self._put()
        return super().class_features(class_names, templates)

    def frozen_image_features(self, inputs: Tensor) -> Tensor:
        self._put()
        return super().frozen_image_features(inputs)

    def state(self) -> dict[str, Tensor]:
        # whole tensors, with the numbers that did not train
        self._put()
        return super().state()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        super().load(tensors)
        with torch.no_grad():
            for name, numbers in self._numbers.items():
                numbers.copy_(self._taken(name))

    def merged_model(self) -> nn.Module:
        self._put()
        return super().merged_model()

    def _taken(self, name: str) -> Tensor:
        """Return a copy of the numbers of a tensor that train (num_drawn,)."""
        return self._trained[name].detach().flatten()[self._positions[name]]

    def _put(self) -> None:
        with torch.no_grad():
            for name, numbers in self._numbers.items():
                self._trained[name].view(-1)[self._positions[name]] = numbers

    def _hand_on(self, name: str) -> Callable[[Tensor], None]:
        """Return what adds the gradients of the numbers that train to theirs, and drops those of the whole tensor."""
        return partial(_hand_on, self._numbers[name], self._positions[name])


def _hand_on(numbers: nn.Parameter, positions: Tensor, parameter: Tensor) -> None:
    assert parameter.grad is not None
    own, parameter.grad = parameter.grad.flatten()[positions], None
    numbers.grad = own if numbers.grad is None else numbers.grad + own
