"""Steps of methods as their references make them, written with open_clip's own modules: what ours are timed against.

Both towers run whole, over all positions of each class's prompt, block by block, with what is learnt put in where it
stands. What the references compute once is computed once here too: the frozen model's class features, and what
SkipTuning's lower text blocks say of the classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipfit_cli import methods
from clipfit_cli.methods._class_vectors import class_means
from clipfit_cli.methods.base import Adapted
from clipfit_cli.models.bundle import ClipBundle
from clipfit_cli.models.templates import template_set
from clipfit_cli.models.text_features import class_prompts

Loss = Callable[[Tensor, Tensor], Tensor]
"""Normalised images (batch, 3, size, size) and labels (batch,) -> the loss."""

Before = Callable[[int, Tensor], Tensor]
"""(block, states (batch, length, width)) -> what goes into the block."""


class Reference:
    """A method at the values that ours has, on a copy of the model."""

    def __init__(self, bundle: ClipBundle, method: str, class_names: Sequence[str], template: str, ours: Adapted):
        """Take what is learnt, the class names' tokens and the frozen model's class features.

        Args:
            bundle: The pristine model; it is not changed.
            method: Its name.
            class_names: In label order.
            template: Of the prompts; a learnt context has words of its own.
            ours: The method, whose values are taken.
        """
        settings: Any = methods.get(method).settings()
        self.settings, self._method = settings, method
        self.model: Any = copy.deepcopy(bundle.model)
        state = ours.state()
        self._mask = state.pop("kept_ranks", torch.ones(len(class_names), dtype=torch.bool))
        self.learnt: dict[str, nn.Parameter] = {name: nn.Parameter(value) for name, value in state.items()}
        if method == "skip-tuning":
            self.learnt = {name: self.model.get_parameter(name) for name in state}
            for parameter in self.parameters():
                parameter.requires_grad_(True)
        words = " ".join("X" * settings.count) + " {}." if method in ("coop", "cocoop", "kgcoop") else template
        self._tokens = bundle.tokenizer(class_prompts(class_names, [words]))
        frozen_templates = template_set("openai")[: settings.teacher_templates] if method == "promptsrc" else [template]
        self._targets = F.normalize(class_means(bundle, class_names, frozen_templates), dim=-1)
        self._lower_text: Tensor | None = None
        by_name: dict[str, Loss] = {"cocoop": self._one_by_one, "promptsrc": self._regulated}
        by_name |= {"mmrl": self._with_tokens, "skip-tuning": self._skipping}
        self.loss = by_name.get(method, self._plain)

    def parameters(self) -> list[nn.Parameter]:
        """Return what trains."""
        return list(self.learnt.values())

    def _plain(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of CoOp, KgCoOp and MaPLe."""
        text = self._text()
        loss = F.cross_entropy(self._logits(self._image(images), text), labels)
        if self._method == "kgcoop":
            loss = loss + self.settings.beta * (1 - F.cosine_similarity(text, self._targets, dim=-1).mean())
        return loss

    def _one_by_one(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of CoCoOp."""
        rows = []
        first, first_bias, second, second_bias = (self.learnt[name] for name in list(self.learnt)[1:])
        for features in self._image(images):
            shift = F.linear(F.relu(F.linear(features, first, first_bias)), second, second_bias)
            rows.append(self._logits(features, self._text(self.learnt["context"] + shift)))
        return F.cross_entropy(torch.stack(rows), labels)

    def _regulated(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of PromptSRC."""
        with torch.no_grad():
            frozen = _unit(self.model.encode_image(images))
            expected = self._logits(frozen, self._targets).log_softmax(dim=-1)
        image, text = self._image(images), self._text()
        logits = self._logits(image, text)
        divergence = F.kl_div(logits.log_softmax(dim=-1), expected, reduction="sum", log_target=True) / logits.numel()
        distances = self.settings.text_weight * F.l1_loss(text, self._targets)
        distances = distances + self.settings.image_weight * F.l1_loss(image, frozen)
        loss: Tensor = F.cross_entropy(logits, labels) + distances + divergence
        return loss

    def _with_tokens(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of MMRL."""
        tokens, projection = self.learnt["tokens"], self.learnt["representation_projection"]
        with torch.no_grad():
            frozen = _unit(self.model.encode_image(images))
        states = self._image_states(images, partial(self._replaced, "image"))
        image, text = _unit(states[:, 0] @ self.model.visual.proj), self._text()
        of_tokens = _unit(states[:, 1 : 1 + len(tokens)].mean(dim=1) @ projection)
        share, distance = self.settings.alpha, self.settings.lam
        loss = share * F.cross_entropy(100 * image @ text.T, labels)
        loss = loss + (1 - share) * F.cross_entropy(100 * of_tokens @ text.T, labels)
        cosines: Tensor = (image * frozen).sum(dim=-1).mean() + (text * self._targets).sum(dim=-1).mean()
        regulated: Tensor = loss + distance * (2 - cosines)
        return regulated

    def _skipping(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of SkipTuning."""
        image_blocks, text_blocks = self.model.visual.transformer.resblocks, self.model.transformer.resblocks
        half, text_half = len(image_blocks) // 2, len(text_blocks) // 2
        with torch.no_grad():
            states = _run(image_blocks, self._entered_images(images), end=half)
            if self._lower_text is None:
                with torch.autocast(images.device.type, enabled=False):
                    entered = self.model.token_embedding(self._tokens) + self.model.positional_embedding
                    self._lower_text = _run(text_blocks, entered, mask=self.model.attn_mask, end=text_half)
        image = _unit(self.model.visual.ln_post(_run(image_blocks, states, first=half)[:, 0]) @ self.model.visual.proj)
        likeness = (image.detach() @ self._targets.T).scatter(1, labels[:, None], 1e4).amax(dim=0)
        kept = likeness.argsort(descending=True, stable=True)[self._mask].sort().values
        above = _run(text_blocks, self._lower_text[kept], mask=self.model.attn_mask, first=text_half)
        places = (kept == labels[:, None]).int().argmax(dim=1)
        return F.cross_entropy(self._logits(image, self._ends(above, self._tokens[kept])), places)

    def _logits(self, image: Tensor, text: Tensor) -> Tensor:
        logits: Tensor = self.model.logit_scale.exp() * image @ text.T
        return logits

    def _text(self, context: Tensor | None = None) -> Tensor:
        """Return class features (num_classes, embed_dim)."""
        states = self.model.token_embedding(self._tokens)
        context = self.learnt.get("context") if context is None else context
        if context is not None:
            states = torch.cat([states[:, :1], _each(context, states), states[:, 1 + len(context) :]], dim=1)
        states = states + self.model.positional_embedding
        before = partial(self._replaced, "text")
        states = _run(self.model.transformer.resblocks, states, before, mask=self.model.attn_mask)
        return self._ends(states, self._tokens)

    def _ends(self, states: Tensor, tokens: Tensor) -> Tensor:
        ends = tokens.argmax(dim=-1) + states.shape[1] - tokens.shape[1]
        return _unit(self.model.ln_final(states)[torch.arange(len(tokens)), ends] @ self.model.text_projection)

    def _image(self, images: Tensor) -> Tensor:
        """Return image features (batch, embed_dim)."""
        states = self._image_states(images, partial(self._replaced, "image"))
        return _unit(states[:, 0] @ self.model.visual.proj)

    def _image_states(self, images: Tensor, before: Before) -> Tensor:
        visual = self.model.visual
        states: Tensor = visual.ln_post(_run(visual.transformer.resblocks, self._entered_images(images), before))
        return states

    def _entered_images(self, images: Tensor) -> Tensor:
        visual = self.model.visual
        states = visual.conv1(images).flatten(2).transpose(1, 2)
        states = torch.cat([_each(visual.class_embedding[None], states), states], dim=1) + visual.positional_embedding
        first = self._of_block("image", 0) if self._method in ("maple", "promptsrc") else None
        states = states if first is None else torch.cat([states, _each(first, states)], dim=1)
        entered: Tensor = visual.ln_pre(states)
        return entered

    def _of_block(self, tower: str, block: int) -> Tensor | None:
        """Return what is learnt for a block (count, width), if anything."""
        learnt = self.learnt
        if f"{tower}.{block}.weight" in learnt:
            return F.linear(learnt["tokens"], learnt[f"{tower}.{block}.weight"], learnt[f"{tower}.{block}.bias"])
        if tower == "image" and f"projections.{block}.weight" in learnt:
            source = learnt[f"text_prompts.{block}" if block else "context"]
            return F.linear(source, learnt[f"projections.{block}.weight"], learnt[f"projections.{block}.bias"])
        return learnt.get(f"{tower}_prompts.{block}")

    def _replaced(self, tower: str, block: int, states: Tensor) -> Tensor:
        """Return what goes into a block: MMRL's tokens behind the first position, others' prompts where they stand."""
        values = self._of_block(tower, block)
        if values is None or (not block and self._method != "mmrl"):
            return states
        count, own = len(values), _each(values, states)
        if tower == "image" and self._method != "mmrl":
            return torch.cat([states[:, :-count], own], dim=1)
        is_first = self._method == "mmrl" and self._of_block(tower, block - 1) is None
        return torch.cat([states[:, :1], own, states[:, 1 if is_first else 1 + count :]], dim=1)


def _run(
    blocks: nn.ModuleList,
    states: Tensor,
    before: Before | None = None,
    *,
    mask: Tensor | None = None,
    first: int = 0,
    end: int | None = None,
) -> Tensor:
    """Return the states behind some blocks; a mask (context_length, context_length) makes them causal."""
    for index, block in list(enumerate(blocks))[first:end]:
        states = before(index, states) if before else states
        length = states.shape[1]
        if mask is not None and len(mask) != length:
            mask = torch.full((length, length), -torch.inf, device=states.device).triu(1)
        states = block(states, attn_mask=mask)
    return states


def _each(values: Tensor, states: Tensor) -> Tensor:
    return values.to(states.dtype).expand(len(states), -1, -1)


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=-1)
