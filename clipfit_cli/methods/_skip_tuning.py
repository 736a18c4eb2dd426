"""The upper blocks of both towers, trained on the classes that a batch takes for its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from clipfit_cli.methods._tensors import copies, take_back
from clipfit_cli.methods._tuned_encoders import TunedEncoders
from clipfit_cli.methods.base import Group
from clipfit_cli.models import encode
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.hooks import Hooks
from clipfit_cli.models.lower import lower_text
from clipfit_cli.models.packing import Packing, chosen
from clipfit_cli.models.text_features import class_prompts, mean_over_templates, normalised, tokens_of
from clipfit_cli.models.towers import tower_of

_MASK = "kept_ranks"
_OWN = 1e4
"""In place of its similarity, what puts a label of the batch before all other classes."""


class SkipTuned(TunedEncoders):
    """Cross-entropy over some classes: those that the batch's images are most like, and a few drawn ones behind them.

    The classes are ranked by the largest cosine that an image of the batch, as the tower sees it now, has to their
    zero-shot features; the labels of the batch come first, and are always kept. Which ranks are kept is drawn once.
    """

    def __init__(
        self,
        bundle: ClipBundle,
        class_names: Sequence[str],
        prompt_templates: Sequence[str],
        *,
        trained: Sequence[str],
        first_text_block: int,
        keep: Tensor,
        image_rate: float,
    ) -> None:
        """Draw the ranks by torch's generator of the CPU.

        Args:
            bundle: The pristine model; it is not changed.
            class_names: In label order.
            prompt_templates: One or more with one ``{}`` each; a class is the mean of its features under all.
            trained: Names of the parameters that train.
            first_text_block: The first block of the text tower that trains, from 0.
            keep: Probability of each rank to be kept (num_classes,), on the CPU.
            image_rate: Of the image tower, as a share of the text tower's.
        """
        super().__init__(bundle, class_names, prompt_templates, trained=trained)
        self._image_rate, self._first_text_block = image_rate, first_text_block
        self._texts = class_prompts(class_names, prompt_templates)
        self._mask = torch.rand(len(keep)) < keep
        self._ahead: tuple[Tensor, int] | None = None
        self._to_come = 0

    def parameters(self) -> list[Group]:
        of_image = [parameter for name, parameter in self._trained.items() if tower_of(name) == "image"]
        of_text = [parameter for name, parameter in self._trained.items() if tower_of(name) == "text"]
        return [Group(of_image, self._image_rate), Group(of_text)]

    def before_parts(self, parts: Sequence[tuple[Tensor, Tensor]]) -> None:
        # the classes are ranked by the whole batch
        with torch.no_grad():
            likeness = [self._likeness(self._image_features(inputs), labels) for inputs, labels in parts]
        self._to_come = sum(len(labels) for _, labels in parts)
        self._ahead = torch.stack(likeness).amax(dim=0), self._to_come

    def loss(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        # of a part of a batch, over the classes of the whole
        image_features = self._image_features(inputs)
        likeness, batch_size = self._ahead or (self._likeness(image_features, labels), len(labels))
        self._to_come -= len(labels)
        if self._to_come <= 0:
            self._ahead = None
        classes, counts = self._kept(likeness, batch_size)
        text_features = self._features_of(classes)
        with torch.autocast(inputs.device.type, enabled=False):
            logits = self.compare(image_features, text_features).masked_fill(~counts, float("-inf"))
            places = (classes == labels[:, None]).int().argmax(dim=1)
            loss = nn.functional.cross_entropy(logits, places)
        return loss, {"cross_entropy": loss.detach()}

    def _likeness(self, image_features: Tensor, labels: Tensor) -> Tensor:
        """Return of every class the largest cosine to an image (num_classes,), of labels `_OWN` instead."""
        with torch.autocast(labels.device.type, enabled=False):
            cosines = image_features.detach() @ self.zero_shot_features().T
        return cosines.scatter(1, labels[:, None], _OWN).amax(dim=0)

    def _kept(self, likeness: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
        """Return the classes of a loss, int64 (num_kept,), in order, and whether each counts.

        How many there are depends on the number of images alone, since a device had to be asked for the labels: there
        is room for as many, and what is neither drawn nor a label does not count.
        """
        ranks, drawn = self._ranks(batch_size)
        classes = likeness.argsort(descending=True, stable=True).index_select(0, ranks)
        counts = drawn | (likeness.index_select(0, classes) == _OWN)
        classes, order = classes.sort()
        return classes, counts.index_select(0, order)

    def _ranks(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Return the ranks that may be kept, int64 (num_kept,), and which of them were drawn, bool (num_kept,)."""
        known = self._known_ranks
        if batch_size not in known:
            found = [(rank, drawn) for rank, drawn in enumerate(self._drawn) if drawn or rank < batch_size]
            ranks, drawn = zip(*found, strict=True)
            known[batch_size] = (
                torch.tensor(ranks, device=self._scale.device),
                torch.tensor(drawn, device=self._scale.device),
            )
        return known[batch_size]

    @cached_property
    def _drawn(self) -> list[bool]:
        return [bool(kept) for kept in self._mask.tolist()]

    @cached_property
    def _known_ranks(self) -> dict[int, tuple[Tensor, Tensor]]:
        return {}

    @cached_property
    def _lower(self) -> tuple[Packing, Tensor] | None:
        """All prompts in one packing, and what the frozen lower blocks make of them; None where they do not pack."""
        prompts = encode.prepare_prompts(
            self.bundle.model, tokens_of(self.bundle, self._texts), self._shortcuts, in_parts=False
        )
        (part,) = prompts.parts
        if not isinstance(part, Packing):
            return None
        return part, lower_text(self.bundle.model, part, self._first_text_block)

    def _features_of(self, classes: Tensor) -> Tensor:
        """Return features (num_kept, embed_dim) of classes of the training, with gradients.

        Args:
            classes: int64 (num_kept,).
        """
        count = self._classes.num_templates
        prompts = (classes[:, None] * count + torch.arange(count, device=classes.device)).flatten()
        if self._lower is None:
            raw = encode.encode_text(self.model, self._classes.prompts).index_select(0, prompts)
            return mean_over_templates(normalised(raw), count)
        packing, states = self._lower
        num_rows = packing.prefix + self._most_rows(len(classes))
        is_less = num_rows < len(packing.tokens)
        if is_less:
            rows, packing = chosen(packing, prompts, num_rows)
            states = states.index_select(0, rows)
        above = Hooks(start=self._first_text_block, started=lambda _: states)
        # the last block whole: rounding grows at the reference's rates, and few classes are left
        raw = encode.encode_part(self.model, packing, last_block=False, hooks=above)
        return mean_over_templates(normalised(raw if is_less else raw.index_select(0, prompts)), count)

    def _most_rows(self, num_kept: int) -> int:
        """Return how many tokens behind the prefix so many classes have at most."""
        assert self._lower is not None
        rests, count = self._lower[0].rests, self._classes.num_templates
        of_classes = [sum(rests[first : first + count]) for first in range(0, len(rests), count)]
        return sum(sorted(of_classes)[-num_kept:])

    def state(self) -> dict[str, Tensor]:
        # which ranks are kept is among it
        return {**super().state(), **copies({_MASK: self._mask})}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        take_back({**self.changing, _MASK: self._mask}, tensors)
        for name in ("_drawn", "_known_ranks"):
            self.__dict__.pop(name, None)
