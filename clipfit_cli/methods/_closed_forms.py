"""What closed forms on normalised image features share: rows class by class, Gaussians of one covariance."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Estimator = Literal["shrunk_scatter", "mean_covariance"]

AT_ONCE = 1 << 22
"""Numbers that are kept in memory at a time, for each of a few tensors."""

_ROUNDING = 1e-12
"""Squared distance from their mean that equal rows of length 1 may seem to have, with room."""


def by_class(features: Tensor, labels: Tensor, num_classes: int) -> list[Tensor]:
    """Return the rows (num_rows, embed_dim) of each class, in their order; of a class without any, none."""
    import torch

    counts = torch.bincount(labels, minlength=num_classes).tolist()
    return list(torch.split(features[labels.argsort(stable=True)], counts))


def means_of(rows: list[Tensor], text_features: Tensor) -> Tensor:
    """Return class means (num_classes, embed_dim), not of length 1; of a class without rows, its text features."""
    import torch

    return torch.stack([own.mean(dim=0) if len(own) else text for own, text in zip(rows, text_features, strict=True)])


def precision_of(rows: list[Tensor], means: Tensor, estimator: Estimator) -> Tensor:
    """Return the inverse covariance (embed_dim, embed_dim) that all classes share.

    ``shrunk_scatter`` is ``d pinv(S + tr(S) / (N - 1) I)`` with S the scatter of all N rows about the means of their
    classes: the inverse covariance times d / (N - 1). ``mean_covariance`` is the pseudo-inverse of the mean of the
    classes' covariances; where it is nearly singular, torch's cut of small singular values, in float32, is part of the
    method. A class of one row has no covariance and is left out of that mean. Where the rows of every class are alike,
    the result is 0.

    Args:
        rows: Of each class (num_rows, embed_dim).
        means: Of the classes (num_classes, embed_dim).
        estimator: Which.

    Source: ICLR24 560fe211, ``main_few_shots`` and ``main_base2new``.
    """
    import torch

    total, num_rows = means.new_zeros(means.shape[1], means.shape[1]), sum(map(len, rows))
    shrinks = estimator == "shrunk_scatter"
    counted = [(own, mean) for own, mean in zip(rows, means, strict=True) if len(own) > 1]
    at_once = max(1, AT_ONCE // (means.shape[1] * max(map(len, rows))))
    for first in range(0, len(counted), at_once):
        # of one class at a time the product would be too small for the processor
        centred = torch.cat([own - mean for own, mean in counted[first : first + at_once]])
        if not shrinks:
            weights = [1 / (len(counted) * (len(own) - 1)) for own, _ in counted[first : first + at_once]]
            lengths = torch.tensor([len(own) for own, _ in counted[first : first + at_once]])
            centred *= torch.tensor(weights).sqrt().repeat_interleave(lengths)[:, None].to(centred.device)
        total.addmm_(centred.T, centred)
    if total.trace() <= _ROUNDING * (num_rows if shrinks else 1):
        return total.zero_()
    if shrinks:
        total.diagonal().add_(total.trace() / (num_rows - 1))
    found: Tensor = torch.linalg.pinv(total)
    return len(found) * found if shrinks else found


def synthesised(views: Tensor, text_features: Tensor, *, neighbours: int, text_weight: float) -> tuple[Tensor, Tensor]:
    """Return means (num_classes, embed_dim) of classes without images, and their inverse covariance.

    A class is made of the views that are nearest to its text features t: its mean is theirs, t counting as
    `text_weight` of them; its covariance is ``S + tr(S) / (k - 1) I``, S their scatter about t, k their number. The
    inverse is d times the mean of the classes' inverses. S has no more than k directions, so that k equations replace
    embed_dim of them (Woodbury); views that all are t give zeros.

    Args:
        views: Of images of other classes, normalised (num_views, embed_dim).
        text_features: Normalised (num_classes, embed_dim).
        neighbours: k; where there are fewer views, all of them.
        text_weight: Above 0.

    Source: ICLR24 560fe211, ``main_base2new``, which fails where there are fewer views.
    """
    import torch

    count, width = min(neighbours, len(views)), text_features.shape[1]
    means: list[Tensor] = []
    precision = text_features.new_zeros(width, width)
    for texts in torch.split(text_features, max(1, AT_ONCE // max(len(views), count * width, 1))):
        near = views[(texts @ views.T).topk(count, dim=1).indices]
        means.append((near.sum(dim=1) + text_weight * texts) / (count + text_weight))
        apart = near - texts[:, None]
        shrinkage = apart.square().sum(dim=(1, 2)) / max(count - 1, 1)
        weights = torch.where(shrinkage > 0, width / shrinkage, 0)
        apart /= torch.where(shrinkage > 0, shrinkage, 1).sqrt()[:, None, None]
        factor = torch.linalg.cholesky(apart @ apart.mT + torch.eye(count, device=apart.device))
        within = torch.linalg.solve_triangular(factor, apart, upper=False) * weights.sqrt()[:, None, None]
        precision.diagonal().add_(weights.sum())
        precision.addmm_(within.flatten(0, 1).T, within.flatten(0, 1), alpha=-1)
    return torch.cat(means), precision / len(text_features)


def discriminant(means: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight W (num_classes, embed_dim) and bias b (num_classes,) of Gaussians that are equally probable.

    ``x W' + b`` is, up to what all classes have in common, the logarithm of the probability of a class.

    Args:
        means: Of the classes (num_classes, embed_dim).
        precision: The inverse of the covariance that they share (embed_dim, embed_dim).
    """
    weight = means @ precision
    return weight, -math.log(len(means)) - 0.5 * (weight * means).sum(dim=1)
