"""A small method of these tests: class means of frozen features, whose logits a setting may turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clipfit_cli import methods
from clipfit_cli.config import Conditions, Recipe, Tap
from clipfit_cli.errors import UndefinedClasses
from clipfit_cli.methods._tensors import copies, take_back
from clipfit_cli.methods.base import Adapted, Group, Hooks, MethodInfo, Source, Trained
from clipfit_cli.models.bundle import ClipBundle

EMBED_DIM = 24
MEANS = Recipe(steps=0, crop_scale=None)
SCALING = Recipe(steps=3, batch_size=None, lr=0.001, warmup_epochs=0, decay="none", crop_scale=None)


@dataclass(frozen=True)
class MeansSettings:
    """Settings of `Means`.

    Attributes:
        turn: By how many places the logits are turned: 0 is right.
        strength: On the logits.
    """

    turn: int = 1
    strength: float = 1.0


class Means(Hooks):
    """Logits are the cosine to the mean of each class, times a scale that trains."""

    tap: Tap = "projected"

    def __init__(self, names: Sequence[str], settings: MeansSettings) -> None:
        self.names, self.settings = tuple(names), settings
        self.means = torch.zeros(len(names), EMBED_DIM)
        self.scale = nn.Parameter(torch.ones(()))
        self.calls: list[tuple[str, int | None]] = []

    def parameters(self) -> list[Group]:
        return [Group([self.scale])]

    def begin(self, stage: int) -> None:
        self.calls.append(("begin", stage))

    def prepare(self, train: Source, val: Source | None) -> None:
        features, labels = train.everything("projected")
        normalised = nn.functional.normalize(features, dim=-1)
        self.means = torch.stack([normalised[labels == k].mean(dim=0) for k in range(len(self.names))])
        self.calls.append(("val", None if val is None else len(val.everything("projected")[0])))

    def _logits(self, features: Tensor) -> Tensor:
        cosine = nn.functional.normalize(features, dim=-1) @ nn.functional.normalize(self.means, dim=-1).T
        return self.scale * self.settings.strength * cosine.roll(self.settings.turn, dims=-1)

    def loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return nn.functional.cross_entropy(self._logits(inputs), labels), {}

    def classifier(self, class_names: Sequence[str], templates: Sequence[str]) -> Callable[[Tensor], Tensor]:
        if not set(class_names) <= set(self.names):
            raise UndefinedClasses("class means are of the training's classes")
        columns = [self.names.index(name) for name in class_names]
        return lambda features: self._logits(features).detach()[:, columns]

    def state(self) -> dict[str, Tensor]:
        return copies({"means": self.means, "scale": self.scale})

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        take_back({"means": self.means, "scale": self.scale}, tensors)


class Choosing(Means):
    """Chooses its turn on validation images, behind the last stage."""

    def calibrate(self, val: Source) -> dict[str, float]:
        features, labels = val.everything("projected")
        found = []
        for turn in (2, 0, 1):
            self.settings = replace(self.settings, turn=turn)
            found.append((self._logits(features).argmax(dim=-1) == labels).float().mean().item() * 100)
        self._tried = {"turn": [2.0, 0.0, 1.0], "accuracy_pct": found}
        self.settings = replace(self.settings, turn=(2, 0, 1)[found.index(max(found))])
        return {"turn": self.settings.turn}

    def tried(self) -> dict[str, list[float]]:
        return self._tried


class Asked:
    """The method as it is asked for, and what was made of it.

    Attributes:
        made: Every `Means`, in order.
        info: Of the method.
    """

    def __init__(self, kind: type[Means] = Means, **changes: Any) -> None:
        self.made: list[Means] = []

        def attach(_: ClipBundle, names: Sequence[str], __: Sequence[str], settings: MeansSettings) -> Adapted:
            self.made.append(kind(names, settings))
            return self.made[-1]

        def describe(_: Any, settings: MeansSettings, num_classes: int, num_images: int) -> list[Trained]:
            return [Trained("means", (num_classes, EMBED_DIM), None), Trained("scale", (), None)]

        def recipe(conditions: Conditions, settings: MeansSettings) -> tuple[Recipe, ...]:
            return (MEANS, SCALING)

        values = {"recipe": recipe, "family": "features", "new_classes": False, **changes}
        self.info = MethodInfo(
            name="means",
            summary="class means",
            source="these tests",
            settings=MeansSettings,
            attach=attach,
            describe=describe,
            **values,
        )

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the package know it during a test, beside its own."""
        known = methods.get
        monkeypatch.setattr(methods, "get", lambda name: self.info if name == self.info.name else known(name))
