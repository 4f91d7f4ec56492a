"""SegFormer and Swin in plain torch, with the parameters' names of the original code.

Written from the papers, small and slow, to hold the converted networks against. B: images, N:
tokens, C: channels, h, w: height and width of a map.
"""

from __future__ import annotations

import re
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn

State = dict[str, Tensor]

CLASSES = 5
WIDTHS = (4, 8, 20, 32)
HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
DEPTHS = (1, 2, 1, 1)


def tokens(x_BChw: Tensor) -> Tensor:
    return x_BChw.flatten(2).transpose(1, 2)


def picture(x_BNC: Tensor, size: tuple[int, int]) -> Tensor:
    return x_BNC.transpose(1, 2).unflatten(2, size)


def randomise(network: Any, seed: int = 0) -> Any:
    """Random values in every parameter and statistic, in float64, in eval mode."""
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64)

    network = network.double().eval()
    for name, tensor in network.state_dict().items():
        if name.endswith('running_var'):
            tensor.copy_(0.5 + normal(tensor).abs())
        elif not tensor.is_floating_point():
            continue
        elif tensor.ndim > 1:
            fan_in = tensor[0].numel()
            tensor.copy_(normal(tensor) / fan_in**0.5)
        else:
            tensor.copy_(0.3 * normal(tensor) + (1.0 if name.endswith('weight') else 0.0))
    for name, tensor in network.state_dict().items():
        # So little before a norm that its eps, 1e-5 or 1e-6, is a good part of the variance.
        if re.search(r'patch_embed\d\.proj|attn\.sr', name):
            tensor.mul_(0.005)
    return network


class Embedding(nn.Module):
    def __init__(self, in_channels: int, width: int, patch: int, stride: int, eps: float) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, patch, stride, patch // 2)
        self.norm = nn.LayerNorm(width, eps)


class ReducedAttention(nn.Module):
    """Attention whose keys and values are taken from a map made `reduction` times smaller."""

    def __init__(self, width: int, heads: int, reduction: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        if reduction > 1:
            self.sr = nn.Conv2d(width, width, reduction, reduction)
            self.norm = nn.LayerNorm(width, eps)

    def forward(self, x_BNC: Tensor, size: tuple[int, int]) -> Tensor:
        small = x_BNC
        if hasattr(self, 'sr'):
            small = self.norm(tokens(self.sr(picture(x_BNC, size))))
        keys, values = self.kv(small).chunk(2, dim=2)
        out = []
        for q, k, v in zip(
            *(t.chunk(self.heads, dim=2) for t in (self.q(x_BNC), keys, values)), strict=True
        ):
            scores = torch.einsum('bnc,bmc->bnm', q, k) / q.shape[2] ** 0.5
            out.append(torch.einsum('bnm,bmc->bnc', scores.softmax(2), v))
        return self.proj(torch.cat(out, 2))


class DepthwiseConv(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 3, padding=1, groups=width)


class MixMLP(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.dwconv = DepthwiseConv(hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_BNC: Tensor, size: tuple[int, int]) -> Tensor:
        hidden = self.dwconv.dwconv(picture(self.fc1(x_BNC), size))
        return self.fc2(tokens(F.gelu(hidden)))


class MixBlock(nn.Module):
    def __init__(
        self, width: int, heads: int, reduction: int, eps: float, reduction_eps: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps)
        self.attn = ReducedAttention(width, heads, reduction, reduction_eps)
        self.norm2 = nn.LayerNorm(width, eps)
        self.mlp = MixMLP(width, 4 * width)

    def forward(self, x_BNC: Tensor, size: tuple[int, int]) -> Tensor:
        x_BNC = x_BNC + self.attn(self.norm1(x_BNC), size)
        return x_BNC + self.mlp(self.norm2(x_BNC), size)


class MixTransformer(nn.Module):
    """The encoder, under NVIDIA's names.

    Args:
        eps: Of the norms in blocks and after stages: NVIDIA 1e-6, Hugging Face 1e-5.
        embedding_eps: Of the norms after patch embeddings and spatial reductions.
    """

    def __init__(self, eps: float = 1e-6, embedding_eps: float = 1e-5) -> None:
        super().__init__()
        before = 3
        for s, width in enumerate(WIDTHS, 1):
            patch, stride = (7, 4) if s == 1 else (3, 2)
            blocks = [
                MixBlock(width, HEADS[s - 1], REDUCTIONS[s - 1], eps, embedding_eps)
                for _ in range(DEPTHS[s - 1])
            ]
            setattr(self, f'patch_embed{s}', Embedding(before, width, patch, stride, embedding_eps))
            setattr(self, f'block{s}', nn.ModuleList(blocks))
            setattr(self, f'norm{s}', nn.LayerNorm(width, eps))
            before = width

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for s in range(1, 5):
            embedding = getattr(self, f'patch_embed{s}')
            x = embedding.proj(x)
            size = (x.shape[2], x.shape[3])
            x = embedding.norm(tokens(x))
            for block in getattr(self, f'block{s}'):
                x = block(x, size)
            x = picture(getattr(self, f'norm{s}')(x), size)
            outputs.append(x)
        return outputs


class Projection(nn.Module):
    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, channels)


class Fusion(nn.Module):
    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)


class AllMLPHead(nn.Module):
    """SegFormer's head, under NVIDIA's names, with the classifier that it does not use."""

    def __init__(self, channels: int = 12) -> None:
        super().__init__()
        for s, width in enumerate(WIDTHS, 1):
            setattr(self, f'linear_c{s}', Projection(width, channels))
        self.linear_fuse = Fusion(4 * channels, channels)
        self.linear_pred = nn.Conv2d(channels, CLASSES, 1)
        self.conv_seg = nn.Conv2d(channels, CLASSES, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        maps = []
        for s in (4, 3, 2, 1):
            x = features[s - 1]
            x = picture(getattr(self, f'linear_c{s}').proj(tokens(x)), x.shape[2:])
            maps.append(
                F.interpolate(x, features[0].shape[2:], mode='bilinear', align_corners=False)
            )
        fused = self.linear_fuse.bn(self.linear_fuse.conv(torch.cat(maps, 1)))
        return self.linear_pred(fused.relu())


class SegFormer(nn.Module):
    """A segmentor, from images to logits at a quarter of their size."""

    def __init__(self, **eps: float) -> None:
        super().__init__()
        self.backbone = MixTransformer(**eps)
        self.decode_head = AllMLPHead()

    def forward(self, images: Tensor) -> Tensor:
        return self.decode_head(self.backbone(images))


# From NVIDIA's names to those in Hugging Face's files.
HUGGING_FACE = [
    (r'^backbone\.', 'segformer.encoder.'),
    (r'patch_embed(\d)\.norm', r'patch_embeddings.\1.layer_norm'),
    (r'patch_embed(\d)\.proj', r'patch_embeddings.\1.proj'),
    (r'encoder\.norm(\d)', r'encoder.layer_norm.\1'),
    (r'block(\d)\.', r'block.\1.'),
    (r'\.attn\.q\.', '.attention.self.query.'),
    (r'\.attn\.k\.', '.attention.self.key.'),
    (r'\.attn\.v\.', '.attention.self.value.'),
    (r'\.attn\.proj\.', '.attention.output.dense.'),
    (r'\.attn\.(sr|norm)\.', r'.attention.self.\1.'),
    (r'self\.norm', 'self.layer_norm'),
    (r'\.norm([12])\.', r'.layer_norm_\1.'),
    (r'\.fc([12])\.', r'.dense\1.'),
    (r'linear_c(\d)', r'linear_c.\1'),
    (r'linear_fuse\.conv', 'linear_fuse'),
    (r'linear_fuse\.bn', 'batch_norm'),
    (r'linear_pred', 'classifier'),
]
# From those to the names in the networks of transformers 5.
IN_MEMORY = [
    (r'encoder\.patch_embeddings\.(\d)', r'stages.\1.patch_embeddings'),
    (r'encoder\.layer_norm\.(\d)', r'stages.\1.layer_norm'),
    (r'encoder\.block\.(\d)', r'stages.\1.blocks'),
    (r'self\.(query|key|value)', lambda m: f'{m[1][0]}_proj'),
    (r'output\.dense', 'o_proj'),
    (r'self\.sr', 'sequence_reduction.sequence_reduction'),
    (r'self\.layer_norm', 'sequence_reduction.layer_norm'),
    (r'layer_norm_1', 'layernorm_before'),
    (r'layer_norm_2', 'layernorm_after'),
    (r'dense([12])', r'fc\1'),
    (r'linear_c\.', 'linear_projections.'),
]


def hugging_face_names(state: State) -> State:
    """NVIDIA's tensors under the names of Hugging Face, without the unused classifier."""
    split = {}
    for key, value in state.items():
        if '.attn.kv.' in key:
            for part, half in zip('kv', value.chunk(2), strict=True):
                split[key.replace('.kv.', f'.{part}.')] = half
        elif not key.startswith('decode_head.conv_seg'):
            split[key] = value
    split = {
        re.sub(
            r'(patch_embed|block|encoder\.norm|backbone\.norm|linear_c)(\d)',
            lambda m: f'{m[1]}{int(m[2]) - 1}',
            key,
        ): value
        for key, value in split.items()
    }
    return substituted(split, HUGGING_FACE)


def substituted(state: State, rules: list[tuple[str, Any]]) -> State:
    for pattern, new in rules:
        state = {re.sub(pattern, new, key): value for key, value in state.items()}
    return state


class WindowAttention(nn.Module):
    """Attention of each token to those in its window, by one matrix over all tokens."""

    def __init__(self, width: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        side = 2 * window - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(side**2, heads))
        y, x = (torch.arange(window**2) // window, torch.arange(window**2) % window)
        self.register_buffer(
            'relative_position_index',
            (y[:, None] - y + window - 1) * side + x[:, None] - x + window - 1,
        )

    def forward(self, x_BhwC: Tensor) -> Tensor:
        _, h, w, _ = x_BhwC.shape
        below, right = -h % self.window, -w % self.window
        padded = F.pad(x_BhwC, (0, 0, 0, right, 0, below))
        height, width = h + below, w + right
        rows = torch.arange(height).repeat_interleave(width)
        columns = torch.arange(width).repeat(height)
        down, along = rows[:, None] - rows, columns[:, None] - columns

        def window_of(position: Tensor) -> Tensor:
            return (position - self.shift).div(self.window, rounding_mode='floor')

        together = (window_of(rows)[:, None] == window_of(rows)) & (
            window_of(columns)[:, None] == window_of(columns)
        )
        reach = self.window - 1
        index = (down.clamp(-reach, reach) + reach) * (2 * reach + 1)
        index = index + along.clamp(-reach, reach) + reach
        parts = self.qkv(padded.flatten(1, 2)).chunk(3, dim=2)
        out = []
        for head, (q, k, v) in enumerate(
            zip(*(part.chunk(self.heads, dim=2) for part in parts), strict=True)
        ):
            scores = torch.einsum('bnc,bmc->bnm', q, k) / q.shape[2] ** 0.5
            scores = scores + self.relative_position_bias_table[index, head]
            scores = scores.masked_fill(~together, float('-inf'))
            out.append(torch.einsum('bnm,bmc->bnc', scores.softmax(2), v))
        result = self.proj(torch.cat(out, 2)).unflatten(1, (height, width))
        return result[:, :h, :w]


class MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)


class SwinBlock(nn.Module):
    def __init__(self, width: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, window, shift)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width)

    def forward(self, x_BhwC: Tensor) -> Tensor:
        x_BhwC = x_BhwC + self.attn(self.norm1(x_BhwC))
        return x_BhwC + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x_BhwC))))


class Merging(nn.Module):
    """Four neighbours become one token: first down the left column, then down the right."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x_BhwC: Tensor) -> Tensor:
        _, h, w, _ = x_BhwC.shape
        x_BhwC = F.pad(x_BhwC, (0, 0, 0, w % 2, 0, h % 2))
        neighbours = [x_BhwC[:, y::2, x::2] for y, x in ((0, 0), (1, 0), (0, 1), (1, 1))]
        return self.reduction(self.norm(torch.cat(neighbours, 3)))


class SwinStage(nn.Module):
    def __init__(self, width: int, depth: int, heads: int, window: int, last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SwinBlock(width, heads, window, shift=i % 2 * (window // 2)) for i in range(depth)
        )
        if not last:
            self.downsample = Merging(width)


class Swin(nn.Module):
    """The encoder, under Microsoft's names.

    Args:
        classes: Of a classifier for ImageNet; None: there are norms for a segmentor's head.
    """

    WIDTH, WINDOW = 6, 3
    SWIN_DEPTHS, SWIN_HEADS = (2, 1, 3, 1), (1, 2, 3, 6)

    def __init__(self, classes: int | None = None) -> None:
        super().__init__()
        self.patch_embed = Embedding(3, self.WIDTH, 4, 4, 1e-5)
        self.patch_embed.proj.padding = (0, 0)
        sizes = list(zip(self.SWIN_DEPTHS, self.SWIN_HEADS, strict=True))
        self.layers = nn.ModuleList(
            SwinStage(self.WIDTH * 2**s, depth, heads, self.WINDOW, last=s == 3)
            for s, (depth, heads) in enumerate(sizes)
        )
        widths = [self.WIDTH * 2**s for s in range(4)]
        if classes is None:
            for s, width in enumerate(widths):
                setattr(self, f'norm{s}', nn.LayerNorm(width))
        else:
            self.norm = nn.LayerNorm(widths[-1])
            self.head = nn.Linear(widths[-1], classes)
            for stage in self.layers:
                for block in stage.blocks[1::2]:
                    block.register_buffer('attn_mask', torch.zeros(4, 9, 9))

    def forward(self, images: Tensor) -> list[Tensor]:
        """The stages' outputs, (B, C, h, w); without the norms where there is a classifier."""
        _, _, h, w = images.shape
        x = self.patch_embed.proj(F.pad(images, (0, -w % 4, 0, -h % 4)))
        x = self.patch_embed.norm(x.permute(0, 2, 3, 1))
        outputs = []
        for s, stage in enumerate(self.layers):
            for block in stage.blocks:
                x = block(x)
            output = getattr(self, f'norm{s}')(x) if hasattr(self, f'norm{s}') else x
            outputs.append(output.permute(0, 3, 1, 2))
            if s < 3:
                x = stage.downsample(x)
        return outputs


class SwinUPerNet(nn.Module):
    """Swin with mmseg's heads, whose names are the same in all versions."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Swin()
        widths = [Swin.WIDTH * 2**s for s in range(4)]
        shared = dict(num_classes=CLASSES, norm_cfg=dict(type='BN'), align_corners=False)
        self.decode_head = MODELS.build(
            dict(type='UPerHead', in_channels=widths, in_index=[0, 1, 2, 3], channels=8, **shared)
        )
        self.auxiliary_head = MODELS.build(
            dict(
                type='FCNHead',
                in_channels=widths[2],
                in_index=2,
                channels=7,
                num_convs=2,
                concat_input=False,
                **shared,
            )
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(images)
        return self.decode_head(features), self.auxiliary_head(features)
