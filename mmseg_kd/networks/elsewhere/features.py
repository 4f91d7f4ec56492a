"""Teachers of features: backbones without scores."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from mmseg_kd.networks.network import Preprocessing, channels_of, sizes_of


class FeatureNetwork(nn.Module):
    """A backbone whose maps are tapped as `features.0`, `features.1` and so on.

    It has what `Network` asks for, and no scores: it teaches by its features, and is no student.

    Args:
        backbone: The network; its layers are named `backbone.` and as in its library.
        count: How many maps there are.
        preprocessing: What its images have gone through.
        img_size: Height and width that it is made for; None: it does not say.
        is_pretrained: Whether it came with its trained weights.
    """

    num_classes = None

    def __init__(
        self,
        backbone: nn.Module,
        count: int,
        preprocessing: Preprocessing,
        img_size: tuple[int, int] | None,
        is_pretrained: bool,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.features = nn.ModuleList([nn.Identity() for _ in range(count)])
        self.preprocessing = preprocessing
        self.img_size = img_size
        self.is_pretrained = is_pretrained

    @property
    def channels(self) -> int:
        return channels_of(self, self.preprocessing)

    @property
    def input_sizes(self) -> list[tuple[int, int]]:
        return sizes_of(self)

    def maps(self, images_NCHW: Tensor) -> Sequence[Tensor]:
        """The maps (N, C, h, w), each with its own C, h and w."""
        raise NotImplementedError

    def forward(self, images_NCHW: Tensor) -> tuple[Tensor, ...]:
        """The maps."""
        maps = self.maps(images_NCHW)
        return tuple(layer(one) for layer, one in zip(self.features, maps, strict=True))

    def run(self, images_NCHW: Tensor) -> tuple[Tensor, ...]:
        """As `forward`."""
        return self(images_NCHW)  # type: ignore[no-any-return]

    def running(self, layers: Collection[str]) -> AbstractContextManager[None]:
        """All layers run."""
        return nullcontext()

    def scored_classes(self, layer: str) -> int | None:
        """None: nothing here is a score."""
        return None
