"""What training changed, given and taken back by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from clipfit_cli.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def check_names(own: Mapping[str, object], given: Mapping[str, Tensor]) -> None:
    """Do nothing if the names are the same.

    Raises:
        CheckpointError: One is missing, or too many.
    """
    if missing := sorted(own.keys() - given.keys()):
        raise CheckpointError(f"the adapter lacks {len(missing)} tensors, the first is {missing[0]}")
    if unknown := sorted(given.keys() - own.keys()):
        raise CheckpointError(f"the adapter has {len(unknown)} tensors too many, the first is {unknown[0]}")


def take_back(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Copy what was given into a method's own tensors.

    Raises:
        CheckpointError: Names or shapes differ; nothing is changed then.
    """
    import torch

    check_names(own, given)
    for name, tensor in own.items():
        if given[name].shape != tensor.shape:
            raise CheckpointError(f"the adapter's {name} is {tuple(given[name].shape)}, expected {tuple(tensor.shape)}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(given[name])
