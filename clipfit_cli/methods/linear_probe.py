"""Linear probe: multinomial logistic regression on image features; the text tower has no part in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipfit_cli.config import SMALLEST, Recipe, ranged
from clipfit_cli.methods._frozen import Frozen, embed_dim
from clipfit_cli.methods.base import MethodInfo, Settings, Source, Trained

if TYPE_CHECKING:
    from torch import Tensor, nn

    from clipfit_cli.models.bundle import ClipBundle

_EXPONENTS = (6.0, 4.0, 2.0, 0.0, -2.0, -4.0, -6.0)
_ROUNDS = 8
_MOST_ITERATIONS, _TOLERANCE = 1000, 1e-6
_REMEMBERED = 20
"""Steps that the solver looks back on: to look back on torch's 100 takes longer than the loss, and spares few steps."""


@dataclass(frozen=True)
class LinearProbeSettings(Settings):
    """Settings of the linear probe.

    Attributes:
        c: How much the loss of one training image counts against half the squared length of the weights; 0.316 is what
            Radford et al. took for ImageNet. With --tune it is searched for.
    """

    c: float = ranged(0.316, SMALLEST)


class LinearProbe(Frozen):
    """Logits of raw features x: ``x W' + b``."""

    method = "linear-probe"

    def __init__(
        self, bundle: ClipBundle, class_names: Sequence[str], templates: Sequence[str], settings: LinearProbeSettings
    ) -> None:
        """Start from zeros; see `Frozen`."""
        import torch

        super().__init__(bundle, class_names, templates)
        self._c = settings.c
        self._weight = torch.zeros(len(class_names), embed_dim(bundle.model), device=bundle.device)
        self._bias = torch.zeros(len(class_names), device=bundle.device)

    def prepare(self, train: Source, val: Source | None) -> None:
        """Solve for the optimum; with validation images, for that of the C that is best on them."""
        features, labels = train.everything(self.tap)
        latest = self._weight, self._bias
        if val is None:
            self._weight, self._bias = fit(features, labels, self._c, latest)
            return
        val_features, val_labels = val.everything(self.tap)
        found: dict[float, tuple[Tensor, Tensor]] = {}
        tried: dict[float, float] = {}

        def accuracy_of(exponent: float) -> float:
            nonlocal latest
            c = 10**exponent
            if c not in found:
                latest = found[c] = fit(features, labels, c, latest)
                right = (val_features @ latest[0].T + latest[1]).argmax(dim=-1) == val_labels
                tried[c] = 100 * right.double().mean().item()
            return tried[c]

        for exponent in reversed(_EXPONENTS):  # from the strongest penalty on, each solution is a good start
            accuracy_of(exponent)
        self._c = 10 ** search(accuracy_of)
        self._weight, self._bias = found[self._c]
        self._tried = {"c": list(tried), "accuracy_pct": list(tried.values())}

    def calibrate(self, _: Source) -> dict[str, float]:
        """Return the C that `prepare` has chosen."""
        return {"c": self._c}

    def head(self, class_names: Sequence[str], _: Sequence[str]) -> Callable[[Tensor], Tensor]:
        places = self.places_of(class_names)

        def logits(inputs: Tensor) -> Tensor:
            weight, bias = (t if places is None else t[places] for t in (self._weight, self._bias))
            return inputs @ weight.T + bias

        return logits

    def state(self) -> dict[str, Tensor]:
        from clipfit_cli.methods._tensors import copies

        return copies({"weight": self._weight, "bias": self._bias})

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        from clipfit_cli.methods._tensors import take_back

        take_back({"weight": self._weight, "bias": self._bias}, tensors)


def fit(features: Tensor, labels: Tensor, c: float, start: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return weight (num_classes, embed_dim) and bias (num_classes,) that minimise ``c * sum CE + |weight|^2 / 2``.

    Args:
        features: Raw (num_images, embed_dim).
        labels: int64 (num_images,).
        c: Above 0.
        start: Weight and bias.

    Source: the objective of scikit-learn's LogisticRegression, as CoOp ff61507c (lpclip) calls it.
    """
    import torch

    # about their mean, which the bias, being free, makes up for: else most steps go into the way to that
    mean = features.double().mean(dim=0)
    inputs = features.double() - mean
    weight, bias = (tensor.double() for tensor in start)
    weight, bias = weight.clone().requires_grad_(), (bias + weight @ mean).requires_grad_()
    # all of it divided by c * num_images, so that one tolerance fits every c
    penalty = 1 / (2 * c * len(inputs))
    optimiser = torch.optim.LBFGS(
        [weight, bias],
        max_iter=_MOST_ITERATIONS,
        max_eval=2 * _MOST_ITERATIONS,
        tolerance_grad=_TOLERANCE,
        tolerance_change=0,
        history_size=_REMEMBERED,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(inputs @ weight.T + bias, labels)
        loss = loss + penalty * weight.square().sum()
        torch.autograd.backward(loss)
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    weight, bias = weight.detach(), bias.detach()
    return weight.float(), (bias - weight @ mean).float()


def search(accuracy_of: Callable[[float], float]) -> float:
    """Return the best exponent of ten: of the maxima of a coarse grid the largest, then a search around it.

    From a tenth to ten times of that, the worse end goes halfway towards the better one; of equal ends the lower is
    the better.

    Args:
        accuracy_of: Exponent -> accuracy.

    Source: CoOp ff61507c (lpclip), the search for C.
    """
    best = max(_EXPONENTS, key=accuracy_of)
    low, high = best - 1, best + 1
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        if accuracy_of(low) < accuracy_of(high):
            best, low = high, middle
        else:
            best, high = low, middle
    return best


def describe(model: nn.Module, _: LinearProbeSettings, num_classes: int, __: int) -> list[Trained]:
    return [Trained("weight", (num_classes, embed_dim(model)), None), Trained("bias", (num_classes,), None)]


METHOD = MethodInfo(
    name="linear-probe",
    summary="logistic regression on image features of the frozen tower, without text; solved, not stepped",
    source="Radford et al., ICML 2021, arXiv 2103.00020, section 3.2 and appendix A.3; search of CoOp ff61507c, lpclip",
    family="features",
    settings=LinearProbeSettings,
    attach=LinearProbe,
    recipe=lambda *_: (Recipe(steps=0, crop_scale=None, views=1),),
    describe=describe,
    new_classes=False,
    selects="tune",
    starts_at_zero_shot=False,
)
