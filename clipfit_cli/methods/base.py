"""The contract of a method, and the reading of its settings; torch is not imported before a method is attached."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, get_origin, get_type_hints, runtime_checkable

from clipfit_cli.config import ProtocolName
from clipfit_cli.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from clipfit_cli.models.bundle import ClipBundle


class Adapted(Protocol):
    """A model under a method: all that training, evaluation and saving need to know.

    It owns whatever it changes; the bundle it was made from stays as it was. `train_mode` says whether `loss` or
    `logits` comes next, so that what is constant while evaluating (class features) is computed once.
    """

    @property
    def uses_frozen_image_features(self) -> bool:
        """Whether all that `logits` needs of an image is what the pristine image tower makes of it."""

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters to optimise, float32; empty for a method that does not train."""

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch (scalar, float32) and its detached terms by name.

        Args:
            images: Normalised (batch, 3, size, size).
            labels: int64 (batch,), indices into the current class names.
        """

    def logits(self, images: Tensor) -> Tensor:
        """Return float32 logits (batch, num_classes) of normalised images (batch, 3, size, size)."""

    def logits_of_features(self, image_features: Tensor) -> Tensor:
        """Return what `logits` gives from what its image tower has made of the images, float32 (batch, num_classes).

        Args:
            image_features: float32 (batch, embed_dim), L2-normalised.
        """

    def set_classes(self, class_names: Sequence[str], prompt_templates: Sequence[str]) -> None:
        """Classify among other classes from now on; what was learnt stays.

        Args:
            class_names: In label order.
            prompt_templates: One or more with one ``{}`` each.
        """

    def train_mode(self, training: bool) -> None:
        """Prepare for `loss` (True) or for `logits` (False)."""

    def drifting_buffers(self) -> list[Tensor]:
        """Return what `loss` itself changes in training, such as running statistics; empty for most."""

    def trained_tensors(self) -> dict[str, Tensor]:
        """Return copies, on the CPU, of all that training changed, by name."""

    def load_trained_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `trained_tensors` gave.

        Raises:
            CheckpointError: Names or shapes do not fit this method on this model.
        """


@runtime_checkable
class Mergeable(Protocol):
    """What an `Adapted` is besides, where CLIP's own weights hold all that was learnt."""

    def merged_model(self) -> nn.Module:
        """Return open_clip's module with what was learnt in its weights; it gives the same logits by itself."""


Attach = Callable[["ClipBundle", Sequence[str], Sequence[str], Any], Adapted]
"""(bundle, class names, prompt templates, settings) -> Adapted."""


Trained = Callable[["nn.Module", Any], list[str]]
"""(open_clip model, which may be on the meta device; settings) -> names of its parameters that train."""


@dataclass(frozen=True)
class MethodInfo:
    """What is known of a method before anything is loaded.

    Attributes:
        name: As a user types it.
        summary: One line: what trains, with which loss.
        source: Paper, and the reference code at a commit where there is one.
        settings: The dataclass of its settings; every field has a default.
        trained: Tells which of the model's own parameters train.
        attach: Makes the `Adapted`.
        trains: False where nothing is trained.
        presets: (protocol, data set) -> settings that the paper fixes there.
        new_classes: False where the method has no answer for other classes than those it was trained on.
        starts_at_zero_shot: True where the logits before the first step are the zero-shot ones.
    """

    name: str
    summary: str
    source: str
    settings: type[Any]
    trained: Trained
    attach: Attach
    trains: bool = True
    presets: Callable[[ProtocolName, str], dict[str, Any]] = lambda *_: {}
    new_classes: bool = True
    starts_at_zero_shot: bool = True


@dataclass(frozen=True)
class TowersSettings:
    """Settings of methods that differ only in which parameters of a tower they train.

    Attributes:
        towers: Whose parameters train.
    """

    towers: Literal["both", "text", "image"] = "both"

    @property
    def chosen(self) -> tuple[Literal["image", "text"], ...]:
        """The towers one by one."""
        return ("image", "text") if self.towers == "both" else (self.towers,)


def tower_method(*, name: str, summary: str, source: str, parameters: str) -> MethodInfo:
    """Return a method that trains parameters of the chosen towers with the cross-entropy alone.

    Args:
        name, summary, source: See `MethodInfo`.
        parameters: The function of `models.towers` that names those of a tower.
    """

    def trained(model: nn.Module, settings: TowersSettings) -> list[str]:
        names_of = getattr(importlib.import_module("clipfit_cli.models.towers"), parameters)
        return [parameter for tower in settings.chosen for parameter in names_of(model, tower)]

    def attach(bundle: ClipBundle, names: Sequence[str], templates: Sequence[str], settings: TowersSettings) -> Adapted:
        from clipfit_cli.methods._tuned_encoders import TunedEncoders, require_some

        return TunedEncoders(bundle, names, templates, trained=require_some(trained(bundle.model, settings), name))

    return MethodInfo(name, summary, source, TowersSettings, trained, attach)


def resolve_settings(
    info: MethodInfo, overrides: Mapping[str, str], presets: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return every setting of a method: its default, replaced by the preset, replaced by what the user typed.

    Args:
        info: The method.
        overrides: As typed: name -> text.
        presets: Values of the paper for the data set at hand.

    Raises:
        UnknownNameError: A setting that the method does not have, or a word that is not one of its choices.
        ConfigError: A text that is not of the setting's type, or a combination the method refuses.
    """
    hints = get_type_hints(info.settings)
    values = dict(presets or {})
    for key, text in overrides.items():
        name = key.replace("-", "_")
        if name not in hints:
            if not hints:
                raise ConfigError(f"the method {info.name} has no settings, got {key}={text}")
            raise UnknownNameError(f"setting of {info.name}", key, hints)
        values[name] = _typed(info.name, name, text, hints[name])
    return dataclasses.asdict(info.settings(**values))


def _typed(method: str, name: str, text: str, hint: Any) -> Any:
    if get_origin(hint) is Literal:
        choices = [str(choice) for choice in get_args(hint)]
        if text not in choices:
            raise UnknownNameError(f"value of {method}'s {name}", text, choices)
        return text
    try:
        if hint is bool:
            return {"true": True, "false": False}[text.lower()]
        return hint(text)
    except (ValueError, KeyError):
        raise ConfigError(f"{method}'s {name} must be of type {hint.__name__}, got {text!r}") from None
