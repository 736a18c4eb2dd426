"""What methods on features of the frozen tower share: class features, the training's classes, reference templates."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, cast

from clipfit_cli.config import Tap
from clipfit_cli.data.catalog import IMAGENET_VARIANTS, prompt_template
from clipfit_cli.errors import ModelError, UndefinedClasses, shortened
from clipfit_cli.methods.base import Group, Hooks

if TYPE_CHECKING:
    from torch import Tensor, nn

    from clipfit_cli.models.bundle import ClipBundle
    from clipfit_cli.models.encode import Prompts, Shortcuts

SCALE = 100.0
"""What cosines are multiplied by in references that do not read the model's temperature."""

_AT_ONCE = 1 << 24
"""Numbers that `tried_pairs` keeps in memory at a time, for each of two tensors."""

ClassKey = tuple[tuple[str, ...], int, "Shortcuts"]
"""What a class set is known by: its prompts, how many a class has, how they are encoded."""


def reference_templates(dataset: str) -> tuple[str, ...]:
    """Return CoOp's template of a data set; of ImageNet and its variants seven, of DTD a shorter one.

    Source: Tip-Adapter d0e2d6f8 and ProLIP b43e795c, the data set classes; the seven as open_clip lists them.
    """
    if dataset in ("imagenet", *IMAGENET_VARIANTS):
        from open_clip import SIMPLE_IMAGENET_TEMPLATES

        return tuple(template("{}") for template in SIMPLE_IMAGENET_TEMPLATES)
    return ("{} texture.",) if dataset == "dtd" else (prompt_template(dataset),)


def embed_dim(model: nn.Module) -> int:
    """Return the numbers in a feature of a CLIP model; on the meta device too."""
    import torch

    from clipfit_cli.models.encode import encode_image
    from clipfit_cli.models.image_tower import image_projection

    try:
        name = image_projection(model)
    except ModelError:
        # a copy without numbers: to tell a shape, nothing need be computed
        tensors = (*model.parameters(), *model.buffers())
        bare = copy.deepcopy(model, {id(tensor): tensor.to("meta") for tensor in tensors})
        height, width = cast(Any, bare).visual.image_size
        return encode_image(bare, torch.empty(1, 3, height, width, device="meta")).shape[1]
    return model.get_parameter(name).shape[1 if name == "visual.proj" else 0]


def kept_class_features(bundle: ClipBundle, key: ClassKey, prompts: Callable[[], Prompts]) -> Tensor:
    """Return the untouched model's normalised class features (num_classes, embed_dim), float32.

    The bundle keeps them, so that all runs with one class set compute them once.

    Args:
        bundle: The pristine model.
        key: Of the class set.
        prompts: Makes them ready, where they have to be encoded.
    """
    import torch

    from clipfit_cli.models.text_features import classifier_weights

    known = bundle.class_features
    if key not in known:
        # made while testing, they may be wanted for a gradient later, which inference mode would forbid
        with torch.inference_mode(False), torch.autocast(bundle.device.type, enabled=False):
            known[key] = classifier_weights(bundle.model, prompts(), num_templates=key[1])
    return known[key]


def class_features(bundle: ClipBundle, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Return the same of class names in templates.

    Raises:
        ConfigError: A prompt is longer than the text tower reads, or a template is none.
    """
    from clipfit_cli.models.encode import Shortcuts
    from clipfit_cli.models.text_features import class_prompts, tokenize_prompts

    texts = class_prompts(class_names, templates)
    key = (tuple(texts), len(templates), Shortcuts())
    return kept_class_features(bundle, key, lambda: tokenize_prompts(bundle, texts))


class Frozen(Hooks, ABC):
    """A method on raw features of the frozen tower: cross-entropy of its logits, float32 whatever the towers run in."""

    tap: Tap = "projected"
    method: ClassVar[str]
    """Its name, for messages."""

    def __init__(self, bundle: ClipBundle, class_names: Sequence[str], templates: Sequence[str]) -> None:
        """Keep what it is about.

        Args:
            bundle: The pristine model; it is not changed.
            class_names: Of the training, in label order.
            templates: One or more with one ``{}`` each.
        """
        self.bundle, self.class_names, self.templates = bundle, tuple(class_names), tuple(templates)
        self._tried: dict[str, list[float]] = {}

    @abstractmethod
    def head(self, class_names: Sequence[str], templates: Sequence[str]) -> Callable[[Tensor], Tensor]:
        """Return what gives logits (batch, num_classes) of inputs (batch, ...), with gradients, by what is learnt then.

        Raises:
            UndefinedClasses: The method has no answer for these classes.
        """

    def places_of(self, class_names: Sequence[str]) -> list[int] | None:
        """Return where classes stand among those of the training; None = they are the same list.

        Of classes with one name (ImageNet has some) the first is meant.

        Raises:
            UndefinedClasses: One is not among them.
        """
        if tuple(class_names) == self.class_names:
            return None
        places = {name: place for place, name in reversed(list(enumerate(self.class_names)))}
        if missing := [name for name in class_names if name not in places]:
            raise UndefinedClasses(
                f"{self.method} has no answer for {len(missing)} of {len(class_names)} classes, the first is "
                f"{shortened(missing[0])!r}: it was trained on {len(places)} others; train it on these, or choose a "
                "method that answers for new classes"
            )
        return [places[name] for name in class_names]

    @cached_property
    def _own_head(self) -> Callable[[Tensor], Tensor]:
        return self.head(self.class_names, self.templates)

    def parameters(self) -> list[Group]:
        return []

    def tried(self) -> dict[str, list[float]]:
        return self._tried

    def loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        import torch

        with torch.autocast(self.bundle.device.type, enabled=False):
            loss = torch.nn.functional.cross_entropy(self._own_head(inputs), labels)
        return loss, {"cross_entropy": loss.detach()}

    def classifier(self, class_names: Sequence[str], templates: Sequence[str]) -> Callable[[Tensor], Tensor]:
        """See `Adapted`.

        Raises:
            UndefinedClasses: The method has no answer for these classes.
        """
        import torch

        head = self.head(class_names, templates)

        def logits(inputs: Tensor) -> Tensor:
            with torch.no_grad(), torch.autocast(self.bundle.device.type, enabled=False):
                return head(inputs)

        return logits


def votes_of(affinities: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return ``A' V`` (num_images, num_classes), V the keys' labels, one-hot: a sum over the keys of each class.

    Args:
        affinities: A (num_keys, num_images), since rows of memory are added up faster than columns.
        labels: Of the keys, int64 (num_keys,).
        num_classes: That there are.
    """
    import torch

    if affinities.device.type == "cuda":  # there a sum by index has no fixed order, and so no fixed rounding
        return affinities.T @ torch.nn.functional.one_hot(labels, num_classes).float()
    return affinities.new_zeros(num_classes, affinities.shape[1]).index_add(0, labels, affinities).T


def tried_pairs(
    image_features: Tensor,
    labels: Tensor,
    *,
    text_features: Tensor,
    keys: Tensor,
    key_labels: Tensor,
    betas: Sequence[float],
    alphas: Sequence[float],
) -> Tensor:
    """Return beta, alpha and accuracy in percent, float64 (num_betas * num_alphas, 3), beta by beta.

    Logits are ``100 x W' + alpha exp(-beta (1 - x K')) V``.

    Args:
        image_features: x, normalised (num_images, embed_dim).
        labels: int64 (num_images,).
        text_features: W, normalised (num_classes, embed_dim).
        keys: K (num_keys, embed_dim).
        key_labels: What each key votes for, int64 (num_keys,); V is that, one-hot.
        betas, alphas: To be tried.
    """
    import torch

    tried = (torch.tensor(numbers, dtype=torch.float64, device=labels.device) for numbers in (betas, alphas))
    pairs = torch.cartesian_prod(*tried)
    weights = pairs[: len(alphas), 1, None, None].float()
    right = torch.zeros(len(betas), len(alphas), dtype=torch.int64, device=labels.device)
    at_once = max(1, _AT_ONCE // max(len(keys), len(alphas) * len(text_features)))
    with torch.no_grad(), torch.autocast(labels.device.type, enabled=False):
        for x, own in zip(torch.split(image_features, at_once), torch.split(labels, at_once), strict=True):
            zero_shot, distances = SCALE * x @ text_features.T, 1 - keys @ x.T
            # room for all pairs, taken once: to get it anew each time would take most of the time
            affinities, logits = torch.empty_like(distances), zero_shot.repeat(len(alphas), 1, 1)
            for row, beta in enumerate(pairs[:: len(alphas), 0].float()):
                votes = votes_of(torch.mul(distances, -beta, out=affinities).exp_(), key_labels, len(text_features))
                torch.mul(weights, votes, out=logits).add_(zero_shot)
                right[row] += (logits.argmax(dim=-1) == own).sum(dim=-1)
    return torch.cat([pairs, 100 * right.double().view(-1, 1) / len(labels)], dim=1)
