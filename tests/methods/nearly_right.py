"""BitFit with one mistake each; the contract has to see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from clipfit_cli import methods
from clipfit_cli.config import Recipe
from clipfit_cli.errors import ModelError, UndefinedClasses
from clipfit_cli.methods._tensors import copies, take_back
from clipfit_cli.methods._tuned_encoders import TunedEncoders
from clipfit_cli.methods.base import Adapted, Group, MethodInfo, Source, Step, Trained
from clipfit_cli.models.bundle import ClipBundle

BITFIT = methods.get("bitfit")


def bitfit_as(kind: type[TunedEncoders], **changes: Any) -> MethodInfo:
    """Return BitFit whose `Adapted` is of another class."""

    def attach(bundle: ClipBundle, names: Sequence[str], templates: Sequence[str], settings: Any) -> Adapted:
        trained = [one.name for one in BITFIT.describe(bundle.model, settings, 0, 0)]
        return kind(bundle, names, templates, trained=trained)

    return replace(BITFIT, attach=attach, **changes)


def refusing(model: nn.Module, *_: Any) -> list[Trained]:
    if type(model.visual).__name__ == "ModifiedResNet":
        raise ModelError("no ResNet, please")
    return list(BITFIT.describe(model, BITFIT.settings(), 0, 0))


@dataclass(frozen=True)
class ListSettings:
    words: list[str] = field(default_factory=lambda: ["a"])


@dataclass(frozen=True)
class TupleSettings:
    scale: tuple[float, float] = (0.5, 1.0)


Logits = Callable[[Tensor], Tensor]


class Encoders(TunedEncoders):
    """BitFit, with an error to come."""

    def logits(self, names: Sequence[str], templates: Sequence[str]) -> Logits:
        return super().classifier(names, templates)


class AsksForGradients(Encoders):
    def classifier(self, class_names: Sequence[str], templates: Sequence[str]) -> Logits:
        logits, (group,) = self.logits(class_names, templates), self.parameters()
        return lambda inputs: logits(inputs) + 0 * group.parameters[0].sum()


class HalfLogits(Encoders):
    def classifier(self, class_names: Sequence[str], templates: Sequence[str]) -> Logits:
        logits = self.logits(class_names, templates)
        return lambda inputs: logits(inputs).bfloat16()


class SeesTheBatch(Encoders):
    def classifier(self, class_names: Sequence[str], templates: Sequence[str]) -> Logits:
        logits = self.logits(class_names, templates)
        return lambda inputs: logits(inputs) - logits(inputs).mean(dim=0)


class FixedOrder(Encoders):
    def classifier(self, class_names: Sequence[str], templates: Sequence[str]) -> Logits:
        return self.logits(sorted(class_names), templates)


class LastClassifierWins(Encoders):
    current: Logits

    def classifier(self, class_names: Sequence[str], templates: Sequence[str]) -> Logits:
        self.current = self.logits(class_names, templates)
        return lambda inputs: self.current(inputs)


class TooFewClasses(Encoders):
    def classifier(self, class_names: Sequence[str], templates: Sequence[str]) -> Logits:
        return self.logits(class_names[:2], templates)


class LastTwo(Encoders):
    def classifier(self, class_names: Sequence[str], templates: Sequence[str]) -> Logits:
        return self.logits(class_names[-3:], templates)


class OneTemplate(Encoders):
    def classifier(self, class_names: Sequence[str], templates: Sequence[str]) -> Logits:
        return self.logits(class_names, templates[:1])


class Refuses(Encoders):
    def classifier(self, class_names: Sequence[str], templates: Sequence[str]) -> Logits:
        if "dog" in class_names:
            raise UndefinedClasses("no dogs, please")
        return self.logits(class_names, templates)


class RandomStart(Encoders):
    """What it draws when it is attached is not in its state."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.offset = torch.randn(1)

    def classifier(self, class_names: Sequence[str], templates: Sequence[str]) -> Logits:
        logits = self.logits(class_names, templates)
        return lambda inputs: logits(inputs) + self.offset


class LivingState(Encoders):
    def state(self) -> dict[str, Tensor]:
        return {name: self.model.state_dict()[name] for name in super().state()}


class LoadsAnything(Encoders):
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        super().load({name: tensors[name] for name in self.state()})


class LoadsBeforeItLooks(Encoders):
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            self.parameters()[0].parameters[0].zero_()
        super().load(tensors)


class MergesNothing(Encoders):
    def merged_model(self) -> nn.Module:
        return self.bundle.model


class InPlace(Encoders):
    def after_epoch(self, epoch: int, epochs: int) -> None:
        self.bundle.model.get_parameter("visual.proj").add_(1e-3)


class SilentChange(Encoders):
    def loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        own: Any = self.model
        own.visual.class_embedding = nn.Parameter(own.visual.class_embedding + 1e-3, requires_grad=False)
        return super().loss(inputs, labels)


class UnusedParameter(Encoders):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.unused = nn.Parameter(torch.ones(3))

    def parameters(self) -> list[Group]:
        return [*super().parameters(), Group([self.unused])]


class GoesBack(Encoders):
    def after_epoch(self, epoch: int, epochs: int) -> None:
        with torch.no_grad():
            self.model.get_parameter("ln_final.bias").copy_(self.bundle.model.get_parameter("ln_final.bias"))


class DoubleParameter(Encoders):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.double = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def parameters(self) -> list[Group]:
        return [*super().parameters(), Group([self.double])]

    def loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, terms = super().loss(inputs, labels)
        return loss + 0 * self.double.sum().float(), terms


class TooSlow(Encoders):
    def parameters(self) -> list[Group]:
        return [replace(group, factor=1e-7) for group in super().parameters()]


class DriftsAlways(Encoders):
    def loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        for name, buffer in self.model.named_buffers():
            if name.endswith("bn1.running_mean"):
                buffer.add_(1.0)
        return super().loss(inputs, labels)


class GlobalNoise(Encoders):
    """Drawn from torch's own generator, which nobody starts before a step."""

    def loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return super().loss(inputs + 0.1 * torch.randn(inputs.shape), labels)


class NoiseOfAPart(Encoders):
    """From the step alone, but drawn anew for every part of a batch."""

    def at(self, step: Step) -> None:
        self.step = step

    def loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        generator = self.step.generator("noise", device=inputs.device)
        return super().loss(inputs + 0.1 * torch.randn(inputs.shape, generator=generator), labels)


class NoiseOfABatch(NoiseOfAPart):
    """As it should be."""

    def loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        generator = self.step.generator("noise", device=inputs.device)
        noise = torch.randn((self.step.batch_size, *inputs.shape[1:]), generator=generator)
        own = noise[self.step.first : self.step.first + len(inputs)]
        return TunedEncoders.loss(self, inputs + 0.1 * own, labels)


class SumOfLosses(Encoders):
    def loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, terms = super().loss(inputs, labels)
        return loss * len(inputs) / 7, terms


class ChangedByTests(Encoders):
    def classifier(self, class_names: Sequence[str], templates: Sequence[str]) -> Logits:
        with torch.no_grad():
            self.parameters()[0].parameters[0].add_(0.1)
        return self.logits(class_names, templates)


class HalfLoss(Encoders):
    def loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, terms = super().loss(inputs, labels)
        return loss.bfloat16() if torch.is_autocast_enabled("cpu") else loss, terms


class AttachedTerm(Encoders):
    def loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, _ = super().loss(inputs, labels)
        return loss, {"cross_entropy": loss}


class AlwaysExact(Encoders):
    def loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast("cpu", enabled=False):
            return super().loss(inputs, labels)


class Reads(Encoders):
    def loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, terms = super().loss(inputs, labels)
        return loss * (1 if float(loss.detach()) > 0 else 2), terms


class TellsNothing(Encoders):
    def drifting_buffers(self) -> list[Tensor]:
        return []


class SavesNoStatistics(Encoders):
    def state(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in super().state().items() if name.endswith("bias")}


class TellsTooMuch(Encoders):
    def drifting_buffers(self) -> list[Tensor]:
        found = super().drifting_buffers()
        return [*found, self.model.get_parameter("visual.attnpool.positional_embedding")] if found else []


class LooksAhead(Encoders):
    def prepare(self, train: Source, val: Source | None) -> None:
        if val:
            val.everything("projected")


class Chooses(Encoders):
    """Its choice on validation images is part of its state, its tries are told."""

    saves = True
    tries: tuple[float, ...] = (1.0, 2.0)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.scale = torch.ones(())

    def calibrate(self, val: Source) -> dict[str, float]:
        self.scale.fill_(2.0)
        return {"scale": 2.0}

    def tried(self) -> dict[str, list[float]]:
        return {"scale": [1.0, 2.0], "accuracy_pct": [*self.tries]} if self.scale > 1 else {}

    def classifier(self, class_names: Sequence[str], templates: Sequence[str]) -> Logits:
        logits = self.logits(class_names, templates)
        return lambda inputs: self.scale * logits(inputs)

    def state(self) -> dict[str, Tensor]:
        return {**super().state(), **(copies({"scale": self.scale}) if self.saves else {})}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        own = {name: self.model.state_dict()[name] for name in super().state()}
        take_back({**own, **({"scale": self.scale} if self.saves else {})}, tensors)


class ChoosesAndForgets(Chooses):
    saves = False


class ChoosesWithoutNumbers(Chooses):
    def calibrate(self, val: Source) -> dict[str, float]:
        return {**super().calibrate(val), "shift": float("nan")}


class RaggedTries(Chooses):
    tries = (1.0,)


class AlwaysTries(Chooses):
    def tried(self) -> dict[str, list[float]]:
        return {"scale": [1.0], "accuracy_pct": [50.0]}


def other_on_meta(model: nn.Module, *_: Any) -> list[Trained]:
    found = BITFIT.describe(model, BITFIT.settings(), 0, 0)
    return list(found)[::-1] if next(model.parameters()).is_meta else list(found)


def of_shots(value: Callable[[int | None], dict[str, Any]]) -> MethodInfo:
    return replace(BITFIT, recipe=lambda where, _: (Recipe(**value(where.shots)),))


def told(change: Callable[[list[Trained]], list[Trained]]) -> MethodInfo:
    return replace(BITFIT, describe=lambda model, *_: change(list(BITFIT.describe(model, BITFIT.settings(), 0, 0))))


class AveragesInSecret(Encoders):
    """Its average over the epochs is in no checkpoint."""

    def begin(self, stage: int) -> None:
        self.sums: dict[str, Tensor] = {}

    def after_epoch(self, epoch: int, epochs: int) -> None:
        with torch.no_grad():
            for name, value in self._trained.items():
                self.sums[name] = self.sums.get(name, 0) + value / epochs
                if epoch == epochs:
                    value.copy_(self.sums[name])


class Averages(AveragesInSecret):
    """The same, as it should be."""

    def training_state(self) -> dict[str, Tensor]:
        return {**self.sums}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.sums = {**tensors}


class LivesOnTheClock(Encoders):
    """Its loss depends on how often it was asked since the process began."""

    calls = 0

    def loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        self.calls += 1
        loss, terms = super().loss(inputs, labels)
        return loss * (1 + 0.1 * self.calls), terms
