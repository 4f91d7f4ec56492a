"""Distillation of edges and bodies apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_kd.checks import at_least_one, non_negative
from mmseg_kd.losses.logit_loss import LogitLoss, Resolution
from mmseg_kd.losses.logit_maps import LogitMaps
from mmseg_kd.registry import KD_LOSSES


@KD_LOSSES.register_module()
class BoundaryLoss(LogitLoss):
    r"""KL divergence of the pixels near an edge of the labels, and of all others, apart.

    .. math:: L = \frac{\epsilon}{|E|} \sum_{i \in E} \mathrm{KL}_i
        + \frac{\beta}{|B|} \sum_{i \in B} \mathrm{KL}_i,
        \quad \mathrm{KL}_i = \sum_c p^T_{ci} \log \frac{p^T_{ci}}{p^S_{ci}}

    with E the pixels of the batch that are at most `distance` pixels away, in rows and in columns,
    from one with another label; B the rest; epsilon the `edge_weight`, beta the `body_weight`, and
    p the softmax over the channels at temperature tau. Ignored pixels are in neither and make no
    edge. Few pixels lie at edges, and most errors: as a mean of their own they count in full.
    Labels are needed.

    Args:
        edge_weight: Of the first part, >= 0.
        body_weight: Of the second, >= 0.
        distance: From an edge, in pixels at the size that `resolution` says, >= 1.
        tau, tau_squared, resolution, ignore_index, standardise, min_confidence: As in `LogitLoss`.

    Raises:
        ValueError: An argument is out of its range.

    Taps: class scores of the same classes.

    Choose it where the student loses to the teacher along contours and on thin objects.

    Reference: after the idea of Liu et al., BPKD: Boundary Privileged Knowledge Distillation For
    Semantic Segmentation, WACV 2024, arXiv 2306.08075, of which no training code is public. It is
    not their loss, whose edge is soft and whose body is compared over the pixels of each channel.
    """

    def __init__(
        self,
        edge_weight: float = 1.0,
        body_weight: float = 1.0,
        distance: int = 3,
        tau: float = 1.0,
        tau_squared: bool = False,
        resolution: Resolution = 'label',
        ignore_index: int | None = None,
        standardise: bool = False,
        min_confidence: float = 0.0,
    ) -> None:
        super().__init__(tau, tau_squared, resolution, ignore_index, standardise, min_confidence)
        self.edge_weight = non_negative('edge_weight', edge_weight)
        self.body_weight = non_negative('body_weight', body_weight)
        self.distance = at_least_one('distance', distance)

    def divergence(self, maps: LogitMaps) -> Tensor:
        if maps.label_NHW is None:
            raise ValueError('BoundaryLoss needs labels, got none.')
        counts_NHW = None
        if self.ignore_index is not None:
            # Not the mask of what is compared: a teacher is unsure just where the edges are.
            counts_NHW = maps.label_NHW != self.ignore_index
        is_edge_NHW = near_edge(maps.label_NHW, self.distance, counts_NHW)
        edge = maps.where(is_edge_NHW).pixel_divergence(self.tau)
        body = maps.where(~is_edge_NHW).pixel_divergence(self.tau)
        return self.edge_weight * edge + self.body_weight * body


def near_edge(label_NHW: Tensor, distance: int, mask_NHW: Tensor | None = None) -> Tensor:
    """Whether another label is at most `distance` rows and columns away, (N, H, W) booleans.

    Args:
        label_NHW: Class indices.
        distance: In pixels, >= 1.
        mask_NHW: Booleans, true where a label counts. None: everywhere.
    """
    label = label_NHW.float()
    nowhere = torch.zeros_like(label_NHW, dtype=torch.bool) if mask_NHW is None else ~mask_NHW
    # The window is a square: a row and a column one after the other give the same.
    largest, negated = (
        F.max_pool2d(
            F.max_pool2d(x, (1, 2 * distance + 1), 1, (0, distance)),
            (2 * distance + 1, 1),
            1,
            (distance, 0),
        )
        for x in (label.masked_fill(nowhere, -torch.inf), (-label).masked_fill(nowhere, -torch.inf))
    )
    # Without any label in the window both are minus infinity, and there is no edge.
    return largest > -negated
