"""What methods share that train one vector for each class, which starts from its un-normalised text features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipfit_cli.data.catalog import prompt_template
from clipfit_cli.methods import _frozen
from clipfit_cli.methods._frozen import Frozen

if TYPE_CHECKING:
    from torch import Tensor

    from clipfit_cli.models.bundle import ClipBundle


def reference_templates(dataset: str) -> tuple[str, ...]:
    """Return CoOp's template of a data set; of ImageNet and its variants seven before it, of DTD a shorter one.

    Source: TaskRes 51953596, the base classifier.
    """
    found = _frozen.reference_templates(dataset)
    return (*found, prompt_template(dataset)) if len(found) > 1 else found


def class_means(bundle: ClipBundle, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Return the untouched model's class features (num_classes, embed_dim), float32, not normalised.

    The bundle keeps them, so that all runs with one class set compute them once.

    Raises:
        ConfigError: A prompt is longer than the text tower reads, or a template is none.
    """
    import torch

    from clipfit_cli.models.text_features import class_means_raw, class_prompts, tokenize_prompts

    texts = class_prompts(class_names, templates)
    key, known = ("raw", *texts, len(templates)), bundle.class_features
    if key not in known:
        # made while testing, they may be wanted for a gradient later, which inference mode would forbid
        with torch.inference_mode(False), torch.autocast(bundle.device.type, enabled=False):
            known[key] = class_means_raw(bundle.model, tokenize_prompts(bundle, texts), num_templates=len(templates))
    return known[key]


class ClassVectors(Frozen):
    """Logits of raw features x: ``exp(tau) cos(x, w)``, w the vector of a class, tau the model's temperature."""

    def __init__(self, bundle: ClipBundle, class_names: Sequence[str], templates: Sequence[str]) -> None:
        """Encode the class names; see `Frozen`."""
        from clipfit_cli.models.towers import logit_scale

        super().__init__(bundle, class_names, templates)
        self._means = class_means(bundle, class_names, templates)
        self._scale = logit_scale(bundle.model)

    def _told_by(self, vectors: Tensor, inputs: Tensor) -> Tensor:
        """Return logits (batch, num_classes) of inputs (batch, embed_dim) and vectors (num_classes, embed_dim)."""
        import torch

        from clipfit_cli.models.text_features import normalised

        squares: Tensor = torch.linalg.vecdot(vectors, vectors)
        # the lengths come last: to divide all vectors by them, and that for the gradient too, would take longer
        return (self._scale * normalised(inputs)) @ vectors.T * squares.rsqrt()
