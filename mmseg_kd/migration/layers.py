"""Layer names of NVIDIA's SegFormer and of Microsoft's Swin, and what mmseg calls the layers.

mmseg's attention and feed-forward modules add their input to what they put out, the old ones do
not: where the old name is that of such a module, the new one is that of its last layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """What has become of a layer.

    Attributes:
        name: Its name in mmseg; None: there is no layer with the same output.
        remark: What to know of it; for a layer without a name, why it has none.
    """

    name: str | None
    remark: str | None = None


class LayerTable:
    """Old and new names of layers.

    Args:
        rows: Pairs (old name, new one or layer), in which `{s}` is the number of a stage and `{i}`
            that of a block.
        owner: Beginning of the names that the table knows wholly: one that is in no row has no
            equal. None: it knows none wholly.
        first_stage: The old number of the first stage, mmseg's 0.
    """

    def __init__(
        self,
        rows: Iterable[tuple[str, Layer | str]],
        owner: str | None = None,
        first_stage: int = 0,
    ) -> None:
        self._owner = owner
        self._first = first_stage
        self.rows = [(old, _as_layer(layer)) for old, layer in rows]
        self._patterns = [_pattern(old) for old, _ in self.rows]

    def translate(self, name: str) -> Layer | None:
        """What has become of the layer `name`; None: the table is not about it."""
        for pattern, (_, layer) in zip(self._patterns, self.rows, strict=True):
            match = pattern.fullmatch(name)
            if match:
                numbers = {key: int(text) for key, text in match.groupdict().items()}
                if 's' in numbers:
                    numbers['s'] -= self._first
                return Layer(layer.name and layer.name.format(**numbers), layer.remark)
        if self._owner is not None and f'{name}.'.startswith(f'{self._owner}.'):
            return Layer(None, 'no layer of mmseg is known to put out the same')
        return None


def translate(name: str, tables: Iterable[LayerTable]) -> Layer:
    """What has become of a layer: as the first table says that is about it, else as it was."""
    for table in tables:
        layer = table.translate(name)
        if layer is not None:
            return layer
    return Layer(name)


def _as_layer(layer: Layer | str) -> Layer:
    return layer if isinstance(layer, Layer) else Layer(layer)


def _pattern(name: str) -> re.Pattern[str]:
    text = re.escape(name)
    for number in ('s', 'i'):
        text = text.replace(rf'\{{{number}\}}', rf'(?P<{number}>\d+)')
    return re.compile(text)


def _below(
    old: str, new: str, rows: Iterable[tuple[str, Layer | str]]
) -> list[tuple[str, Layer | str]]:
    """Rows with `old` before the old names and `new` before the new ones."""
    below: list[tuple[str, Layer | str]] = []
    for name, layer in rows:
        layer = _as_layer(layer)
        moved = None if layer.name is None else new + layer.name
        below.append((old + name, Layer(moved, layer.remark)))
    return below


_HEADS = Layer(
    '.attn.attn.weights',
    'the weights are now the mean over the heads; they were those of every head',
)
_SCORES = Layer(
    '.attn.attn.weights',
    'the weights are now those behind the softmax, the mean over the heads; they were the scores '
    'before it, of every head',
)
_LEVEL = 'in a student batch normalisation and ReLU follow here on what was a linear layer'
_BIAS = 'without the bias of the linear layer, which is in the batch normalisation behind it'
_SCALED = (
    'in converted checkpoints of whole networks it is scaled, and the norm behind it undoes that'
)

MIT = LayerTable(
    [
        # The modules themselves put out a tuple, now as then; this is the tensor in it.
        ('backbone.patch_embed{s}', 'backbone.layers.{s}.0.norm'),
        ('backbone.patch_embed{s}.proj', Layer('backbone.layers.{s}.0.projection', _SCALED)),
        ('backbone.patch_embed{s}.norm', 'backbone.layers.{s}.0.norm'),
        ('backbone.norm{s}', 'backbone.layers.{s}.2'),
        *_below(
            'backbone.block{s}.{i}',
            'backbone.layers.{s}.1.{i}',
            [
                ('', ''),
                ('.norm1', '.norm1'),
                ('.norm2', '.norm2'),
                # No dropout in NVIDIA's networks: behind the projection nothing changes.
                ('.attn', '.attn.proj_drop'),
                ('.attn.proj', '.attn.proj_drop'),
                ('.attn.proj_drop', '.attn.proj_drop'),
                ('.attn.q', '.attn.attn.query'),
                (
                    '.attn.kv',
                    Layer(None, 'keys and values are apart now: tap attn.attn.key or .value'),
                ),
                ('.attn.sr', Layer('.attn.sr', _SCALED)),
                ('.attn.norm', '.attn.norm'),
                ('.attn.attn_drop', _HEADS),
                # SegDistill's own: modules that pass on what was to be tapped.
                ('.attn.Q', '.attn.attn.query'),
                ('.attn.K', '.attn.attn.key'),
                ('.attn.V', '.attn.attn.value'),
                ('.attn.ATTN', _SCORES),
                ('.attn.FEA', '.attn.proj_drop'),
                ('.mlp.FEA', '.ffn.layers'),
                ('.FEA', ''),
                ('.mlp', '.ffn.layers'),
                ('.mlp.fc1', '.ffn.layers.0'),
                ('.mlp.dwconv', '.ffn.layers.1'),
                ('.mlp.dwconv.dwconv', '.ffn.layers.1'),
                ('.mlp.act', '.ffn.layers.2'),
                ('.mlp.fc2', '.ffn.layers.4'),
                # These two ran twice; what was kept is what the second run put out.
                ('.mlp.drop', '.ffn.layers'),
                ('.drop_path', '.ffn.dropout_layer'),
            ],
        ),
    ],
    owner='backbone',
    first_stage=1,
)

SEGFORMER_HEAD = LayerTable(
    [
        # Hooks on a head do not fire; its output is that of its last layer.
        ('decode_head', 'decode_head.conv_seg'),
        ('decode_head.linear_pred', 'decode_head.conv_seg'),
        ('decode_head.conv_seg', Layer(None, 'this layer never ran; linear_pred gave the scores')),
        ('decode_head.linear_c{s}', Layer('decode_head.convs.{s}', _LEVEL)),
        ('decode_head.linear_c{s}.proj', Layer('decode_head.convs.{s}.conv', _BIAS)),
        ('decode_head.linear_fuse', 'decode_head.fusion_conv'),
        ('decode_head.linear_fuse.conv', 'decode_head.fusion_conv.conv'),
        ('decode_head.linear_fuse.bn', 'decode_head.fusion_conv.bn'),
        ('decode_head.linear_fuse.activate', 'decode_head.fusion_conv.activate'),
        ('decode_head.dropout', 'decode_head.dropout'),
    ],
    owner='decode_head',
    first_stage=1,
)

SWIN = LayerTable(
    [
        ('backbone.patch_embed', 'backbone.patch_embed.norm'),
        ('backbone.patch_embed.proj', 'backbone.patch_embed.projection'),
        ('backbone.patch_embed.norm', 'backbone.patch_embed.norm'),
        ('backbone.pos_drop', 'backbone.drop_after_pos'),
        ('backbone.norm{s}', 'backbone.norm{s}'),
        *_below(
            'backbone.layers.{s}',
            'backbone.stages.{s}',
            [
                ('', Layer(None, 'a stage puts out a tuple; tap its last block')),
                ('.downsample', '.downsample.reduction'),
                ('.downsample.reduction', '.downsample.reduction'),
                (
                    '.downsample.norm',
                    Layer(None, 'its channels stand in another order; tap .downsample.reduction'),
                ),
            ],
        ),
        *_below(
            'backbone.layers.{s}.blocks.{i}',
            'backbone.stages.{s}.blocks.{i}',
            [
                ('', ''),
                ('.norm1', '.norm1'),
                ('.norm2', '.norm2'),
                ('.attn', '.attn.w_msa'),
                ('.attn.qkv', '.attn.w_msa.qkv'),
                ('.attn.softmax', '.attn.w_msa.softmax'),
                ('.attn.attn_drop', '.attn.w_msa.attn_drop'),
                ('.attn.proj', '.attn.w_msa.proj'),
                ('.attn.proj_drop', '.attn.w_msa.proj_drop'),
                ('.mlp', '.ffn.layers'),
                ('.mlp.fc1', '.ffn.layers.0.0'),
                ('.mlp.act', '.ffn.layers.0.1'),
                ('.mlp.fc2', '.ffn.layers.1'),
                ('.mlp.drop', '.ffn.layers'),
                ('.drop_path', '.ffn.dropout_layer'),
            ],
        ),
    ],
    owner='backbone',
)
