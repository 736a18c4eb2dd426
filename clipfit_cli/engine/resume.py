"""A stage on its way as it stands behind a step, taken out and put back bit for bit; see `train`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from clipfit_cli.config import Recipe
from clipfit_cli.errors import CheckpointError
from clipfit_cli.methods.base import Group, Hooks

_PARAMETER, _BUFFER, _METHOD, _OPTIMISER = "parameter", "buffer", "method", "optimiser"


@dataclass(frozen=True, eq=False)
class Snapshot:
    """All that the later steps of a stage depend on, beside the run itself; on the CPU.

    Order and crops are replayed from the seed, and whatever else is random depends on seed, stage, epoch and step, so
    that neither is in here.

    Attributes:
        done: Steps; 0 for a stage that makes none.
        time_s: Wall-clock seconds so far.
        micro_batch_size: Images at a time, by now; None before the first step.
        losses, cross_entropies: Of every step, float32 (done,).
        scales: Of a loss scaler after every step, float32 (done,); without one (0,).
        scaler: What a loss scaler says of itself; empty without one.
        tensors: What trains, what drifts, what the method carries along, and the optimiser's own, by name. Of a stage
            that is finished the last are left out.
    """

    done: int = 0
    time_s: float = 0.0
    micro_batch_size: int | None = None
    losses: Tensor = field(default_factory=lambda: torch.zeros(0))
    cross_entropies: Tensor = field(default_factory=lambda: torch.zeros(0))
    scales: Tensor = field(default_factory=lambda: torch.zeros(0))
    scaler: dict[str, float] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


class Keeper(Protocol):
    """Keeps a training on its way. Within its context, a signal to end is told by `is_due` and `keep`."""

    def within_steps(self) -> AbstractContextManager[object]:
        """Return the context in which the steps of a stage are made."""

    def is_due(self, recipe: Recipe, done: int, steps_per_epoch: int) -> bool:
        """Return whether to keep the stage as it stands behind so many steps."""

    def keep(self, snapshot: Snapshot) -> None:
        """Take a stage on its way.

        Raises:
            KeyboardInterrupt: The training is to end here.
        """

    def finished(self, snapshot: Snapshot) -> None:
        """Take a stage that is at its end."""


def tensors_of(
    groups: Sequence[Group], hooks: Hooks, optimiser: torch.optim.Optimizer | None = None
) -> dict[str, Tensor]:
    """Return the tensors of a stage by name, on the CPU; those that lie there already are not copied.

    Args:
        groups: What trains.
        hooks: Of the method.
        optimiser: None = none of its own.
    """
    found = _own(groups, hooks)
    found |= {f"{_METHOD}.{name}": tensor for name, tensor in hooks.training_state().items()}
    if optimiser:
        for place, kept in optimiser.state_dict()["state"].items():
            found |= {
                f"{_OPTIMISER}.{place}.{name}": value for name, value in kept.items() if isinstance(value, Tensor)
            }
    return {name: tensor.detach().cpu() for name, tensor in found.items()}


def put_back(
    tensors: Mapping[str, Tensor], groups: Sequence[Group], hooks: Hooks, optimiser: torch.optim.Optimizer
) -> None:
    """Give a stage that has just begun the tensors that `tensors_of` gave.

    Raises:
        CheckpointError: They are not of this stage of this method on this model; nothing is changed then.
    """
    own = _own(groups, hooks)
    states: dict[int, dict[str, Any]] = {}
    of_method: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        place, _, of_parameter = rest.partition(".")
        like = own.get(f"{_PARAMETER}.{place}" if kind == _OPTIMISER else name)
        if kind == _METHOD:
            of_method[rest] = tensor
        elif like is None or tensor.dtype != like.dtype or (tensor.shape != like.shape and kind != _OPTIMISER):
            raise CheckpointError(f"the checkpoint's {name} is {tensor.dtype} {tuple(tensor.shape)}, not as it is here")
        elif kind == _OPTIMISER:
            if tensor.shape != (() if of_parameter == "step" else like.shape):
                raise CheckpointError(f"the checkpoint's {name} is {tuple(tensor.shape)}, not {tuple(like.shape)}")
            states.setdefault(int(place), {})[of_parameter] = tensor.clone()  # torch may take it as it is
    if missing := sorted(own.keys() - tensors.keys()):
        raise CheckpointError(f"the checkpoint lacks {len(missing)} tensors, the first is {missing[0]}")
    hooks.restore(of_method)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
    optimiser.load_state_dict({**optimiser.state_dict(), **({"state": states} if states else {})})


def _own(groups: Sequence[Group], hooks: Hooks) -> dict[str, Tensor]:
    """Return what trains and what drifts by name, as it is."""
    parameters = [parameter for group in groups for parameter in group.parameters]
    found: dict[str, Tensor] = {f"{_PARAMETER}.{place}": tensor for place, tensor in enumerate(parameters)}
    return {**found, **{f"{_BUFFER}.{place}": tensor for place, tensor in enumerate(hooks.drifting_buffers())}}
