"""Cross-image relational distillation, with a memory of earlier images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmseg_kd.checks import at_least_one, non_negative, positive, whole_number
from mmseg_kd.losses.class_queues import ClassQueues
from mmseg_kd.losses.feature_map_loss import FeatureMapLoss, Resolution
from mmseg_kd.losses.functional import resize_label, similarity_kl, unit_length
from mmseg_kd.registry import KD_LOSSES


@KD_LOSSES.register_module()
class CIRKDMemoryLoss(FeatureMapLoss):
    r"""KL divergence between what each pixel is like among pixels and regions of earlier images.

    .. math:: L = \alpha L(V_p) + \beta L(V_r), \quad
        L(V) = \frac{\kappa^2}{|M|} \sum_{i \in M} \sum_{v \in V}
        r^T_{iv} \log \frac{r^T_{iv}}{r^S_{iv}},
        \quad r_{i\cdot} = \mathrm{softmax}\left( \frac{\cos(f_i, v)}{\tau \kappa} \right)

    with M the pixels that have a class, V_p and V_r entries drawn from queues of the teacher's
    pixels and of its mean over each class of an image, f^S the student's features after two 1x1
    convolutions that learn with it, alpha the `pixel_weight`, beta the `region_weight` and kappa
    the `kd_tau`. Labels are needed. A training iteration files its own images after it has
    compared them.

    State: the queues, num_classes x (pixel_entries + region_entries) x channels numbers, which are
    428 MB for 19 classes of 256 channels, and the convolutions; `mmseg-kd train` holds a copy of
    them. The matrix of pixels and entries is never held as a whole.

    Taps: features with context in them; the paper takes what a head puts before its classifier.

    Choose it beside `CIRKDLoss`, or in its place where a GPU has few images at a time.

    Args:
        channels: C, of the teacher's layer.
        num_classes: The number of classes, whose labels are 0 to `num_classes` - 1.
        in_channels: Of the student's layer, or of what the term's connector makes of it. None: C.
        pixel_weight: Of the pixels, >= 0.
        region_weight: Of the regions, >= 0.
        tau: Temperature, > 0.
        kd_tau: A second one, > 0, whose square is a factor of the loss.
        pixel_entries, region_entries: Lengths of the queues of each class.
        pixel_draws, region_draws: So many entries of all classes together are drawn an iteration,
            of each class as many.
        pixels_per_image: An image files at most so many pixels of each class.
        ignore_index: The label of pixels without a class.
        resolution: As in `FeatureMapLoss`.

    Raises:
        ValueError: An argument is out of its range.

    Reference: Yang et al., Cross-Image Relational Knowledge Distillation for Semantic Segmentation,
    CVPR 2022, arXiv 2204.06986, section 3, with weight 0.1. What is filed under a class belongs
    to it; the authors' code takes pixels of the whole image, and files a batch before it compares
    it. The channels of CIRKDv2 are not here.
    """

    needs_same_channels = False

    def __init__(
        self,
        channels: int,
        num_classes: int,
        in_channels: int | None = None,
        pixel_weight: float = 1.0,
        region_weight: float = 1.0,
        tau: float = 0.1,
        kd_tau: float = 1.0,
        pixel_entries: int = 20000,
        region_entries: int = 2000,
        pixel_draws: int = 4096,
        region_draws: int = 1024,
        pixels_per_image: int = 16,
        ignore_index: int = 255,
        resolution: Resolution = 'student',
    ) -> None:
        super().__init__(resolution)
        self.channels = at_least_one('channels', channels)
        self.num_classes = at_least_one('num_classes', num_classes)
        in_channels = channels if in_channels is None else in_channels
        self.in_channels = at_least_one('in_channels', in_channels)
        self.pixel_weight = non_negative('pixel_weight', pixel_weight)
        self.region_weight = non_negative('region_weight', region_weight)
        self.tau = positive('tau', tau)
        self.kd_tau = positive('kd_tau', kd_tau)
        self.pixel_draws = at_least_one('pixel_draws', pixel_draws)
        self.region_draws = at_least_one('region_draws', region_draws)
        self.pixels_per_image = at_least_one('pixels_per_image', pixels_per_image)
        self.ignore_index = whole_number('ignore_index', ignore_index)
        # No word that keys of paramwise_cfg are for.
        self.projection = nn.Sequential(
            nn.Conv2d(in_channels, channels, 1, bias=False),
            # It works in training alone: no statistics to keep, that ranks would differ in.
            nn.BatchNorm2d(channels, track_running_stats=False),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
        )
        self.pixel_entries = at_least_one('pixel_entries', pixel_entries)
        self.pixels = ClassQueues(num_classes, pixel_entries, channels)
        self.region_entries = at_least_one('region_entries', region_entries)
        self.regions = ClassQueues(num_classes, region_entries, channels)

    def distance(
        self, student_NChw: Tensor, teacher_NChw: Tensor, label_NHW: Tensor | None
    ) -> Tensor:
        label_Nhw = self._labels(student_NChw, teacher_NChw, label_NHW)
        image_Nhw = torch.arange(len(label_Nhw), device=label_Nhw.device)[:, None, None]
        is_class_Nhw = label_Nhw != self.ignore_index
        segment_M = (image_Nhw * self.num_classes + label_Nhw)[is_class_Nhw]
        ours_MC, theirs_MC = (
            unit_length(x_NChw).permute(0, 2, 3, 1)[is_class_Nhw]
            for x_NChw in (self.projection(student_NChw), teacher_NChw)
        )
        loss = ours_MC.sum() * 0.0
        for weight, queues, draws in (
            (self.pixel_weight, self.pixels, self.pixel_draws),
            (self.region_weight, self.regions, self.region_draws),
        ):
            if weight:
                entry_AC = queues.draw(draws)
                divergence = similarity_kl(
                    ours_MC, theirs_MC, entry_AC, entry_AC, tau=self.tau * self.kd_tau
                )
                loss = loss + weight * self.kd_tau**2 * divergence / max(1, len(ours_MC))
        if self.training:
            self._file(theirs_MC, segment_M)
        return loss

    def _labels(
        self, student_NChw: Tensor, teacher_NChw: Tensor, label_NHW: Tensor | None
    ) -> Tensor:
        """The labels at the maps' size.

        Raises:
            ValueError: Something is not as the arguments say.
        """
        for name, wanted, side, x in (
            ('channels', self.channels, 'teacher', teacher_NChw),
            ('in_channels', self.in_channels, 'student', student_NChw),
        ):
            if x.shape[1] != wanted:
                raise ValueError(
                    f"{name}={wanted}, but the {side}'s map has {x.shape[1]} channels; write "
                    f'{name}={x.shape[1]}.'
                )
        if label_NHW is None:
            raise ValueError('CIRKDMemoryLoss needs labels, got none.')
        label_Nhw = resize_label(label_NHW, student_NChw.shape[-2:])
        # Pixels of images without a mask have labels below 0.
        label_Nhw = label_Nhw.masked_fill(label_Nhw < 0, self.ignore_index)
        is_ignored_Nhw = label_Nhw == self.ignore_index
        wrong = label_Nhw[(label_Nhw >= self.num_classes) & ~is_ignored_Nhw]
        if len(wrong):
            raise ValueError(
                f'label {int(wrong[0])} is none of num_classes={self.num_classes}, nor '
                f'ignore_index={self.ignore_index}.'
            )
        return label_Nhw

    def _file(self, teacher_MC: Tensor, segment_M: Tensor) -> None:
        """Put a batch into the queues.

        Args:
            teacher_MC: Vectors of the pixels that have a class.
            segment_M: Of each, its image times the number of classes, plus its class.
        """
        present_R, segment_M, count_R = segment_M.unique(return_inverse=True, return_counts=True)
        class_R = present_R % self.num_classes
        # A random order of the pixels of each segment, one segment after the other.
        order_M = torch.randperm(len(segment_M)).to(segment_M.device)
        order_M = order_M[segment_M[order_M].argsort(stable=True)]
        begin_R = count_R.cumsum(0) - count_R
        place_M = torch.arange(len(order_M), device=order_M.device) - begin_R[segment_M[order_M]]
        most = min(self.pixels_per_image, self.pixels.queue.shape[1])
        blocks_R2 = torch.stack([class_R, count_R.clamp(max=most)], 1)
        self.pixels.file(teacher_MC[order_M[place_M < most]], blocks_R2)
        sum_RC = teacher_MC.new_zeros(len(present_R), self.channels)
        sum_RC.index_add_(0, segment_M, teacher_MC)
        self.regions.file(unit_length(sum_RC), torch.stack([class_R, torch.ones_like(class_R)], 1))
