"""Networks by one word: of a table, of Hugging Face, timm or torchvision, or a trained run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.registry import DefaultScope

from mmseg_kd.analysis.pairing import propose
from mmseg_kd.config.file import read_config_file
from mmseg_kd.config.load import load_config
from mmseg_kd.config.network_spec import parse_network
from mmseg_kd.data_checks.splits import expected_of
from mmseg_kd.errors import ConfigError, nearest
from mmseg_kd.networks.build import build_segmentor, without_initialisation
from mmseg_kd.runs.work_dir import read_work_dir

_SHIPPED = 'mmseg_kd::configs/_base_/models/'
_ZOO = 'mmseg::'
_ADE20K = 'ade20k-512x512.py'


@dataclass(frozen=True)
class Known:
    """A network of the table.

    Attributes:
        config: Where it is.
        weights: A file that the config starts from; '': it needs none.
        public: Options that start it from public weights, for where that file is not.
    """

    config: str
    weights: str = ''
    public: Mapping[str, Any] = field(default_factory=dict)


NETWORKS = {
    'mobilenetv2': Known(
        f'{_SHIPPED}mobilenetv2_segformer.py',
        'weights/mobilenetv2_imagenet_mmseg.pth',
        {'model.backbone.init_cfg.checkpoint': 'mmcls://mobilenet_v2'},
    ),
    'efficientnet-lite2': Known(
        f'{_SHIPPED}efficientnet-lite2_segformer.py',
        'weights/tf_efficientnet_lite2_features.pth',
        {'model.backbone.pretrained': True, 'model.backbone.checkpoint_path': ''},
    ),
    'mit-slim': Known(f'{_SHIPPED}mit-slim_segformer.py'),
    **{
        f'segformer-b{size}': Known(f'{_ZOO}segformer/segformer_mit-b{size}_8xb2-160k_{_ADE20K}')
        for size in range(6)
    },
    'pspnet-r50': Known(f'{_ZOO}pspnet/pspnet_r50-d8_4xb4-160k_{_ADE20K}'),
    'pspnet-r101': Known(f'{_ZOO}pspnet/pspnet_r101-d8_4xb4-160k_{_ADE20K}'),
    'deeplabv3plus-r50': Known(f'{_ZOO}deeplabv3plus/deeplabv3plus_r50-d8_4xb4-160k_{_ADE20K}'),
    'swin-t': Known(f'{_ZOO}swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_{_ADE20K}'),
}

# Networks from elsewhere by what stands before the colon: what a config says of them, and the
# argument that the rest of the word is.
_ELSEWHERE: dict[str, tuple[dict[str, Any], str]] = {
    'hf': (dict(type='HFSegmentor'), 'model'),
    'timm': (dict(type='TimmSegmentor', pretrained=True), 'backbone'),
    'torchvision': (dict(type='TorchvisionSegmentor', pretrained='backbone'), 'model'),
}
# The head of a timm backbone, whose channels are found.
_HEAD = dict(type='SegformerHead', channels=128, dropout_ratio=0.1, align_corners=False)


def is_network_name(text: str) -> bool:
    """Whether a word is one of those that `network_of` knows and that name no config."""
    prefix, colon, _ = text.partition(':')
    return text in NETWORKS or bool(prefix in _ELSEWHERE and colon) or Path(text).is_dir()


def network_of(text: str, side: str, num_classes: Any, size: Any) -> dict[str, Any]:
    """What a config says of a network that one word names.

    Args:
        text: A name in `NETWORKS`, `hf:FOLDER_OR_NAME`, `timm:BACKBONE`, `torchvision:NAME`, the
            work dir of a run, or a config as on the command line.
        side: What messages call it.
        num_classes: How many classes it is to tell apart; a number, or the name of one.
        size: Height and width of the images that it is trained on; likewise.

    Raises:
        ConfigError: There is no such network, or the run's has other classes.
        CheckpointError: The run has no checkpoint.
    """
    prefix, _, rest = text.partition(':')
    if prefix in _ELSEWHERE and rest:
        plain, argument = _ELSEWHERE[prefix]
        found = {**plain, argument: rest}
        if prefix == 'timm':
            return {**found, 'head': {**_HEAD, 'num_classes': num_classes}}
        return {**found, 'num_classes': num_classes}
    if Path(text).is_dir():
        run = read_work_dir(text)
        return dict(config=str(run.config), checkpoint=str(run.checkpoint))
    known = NETWORKS.get(text)
    if known is None and not (text.endswith('.py') or '::' in text):
        names = [*NETWORKS, *(f'{one}:' for one in _ELSEWHERE)]
        raise ConfigError(
            f'{side}: there is no network {text!r}; {nearest(text, names)}. A config, the work dir '
            'of a run, hf:FOLDER_OR_NAME, timm:BACKBONE and torchvision:NAME will do too.'
        )
    known = known or Known(text)
    model = read_config_file(known.config).get('model') or {}
    options: dict[str, Any] = {'model.data_preprocessor.size': size}
    for head in ('decode_head', 'auxiliary_head'):
        heads = model.get(head)
        places = [f'{head}.{i}' for i in range(len(heads))] if isinstance(heads, list) else [head]
        options |= {f'model.{one}.num_classes': num_classes for one in places if heads}
    if not Path(known.weights).is_file():
        options |= known.public
    return dict(config=known.config, cfg_options=options)


def is_trained(text: str, num_classes: int) -> bool:
    """Whether a network of `network_of` needs no training: a run, or a folder of Hugging Face with
    as many classes.
    """
    file = Path(text.removeprefix('hf:'), 'config.json')
    if text.startswith('hf:') and file.is_file():
        settings = json.loads(file.read_text(encoding='utf-8'))
        # Two labels are the default, which is not written.
        labels = settings.get('id2label', range(2))
        kinds = ' '.join(settings.get('architectures') or ())
        return 'Segmentation' in kinds and len(labels) == num_classes
    return Path(text).is_dir()


def check_classes(network: Mapping[str, Any], side: str, num_classes: int) -> None:
    """See that a trained run tells as many classes apart as the data.

    Raises:
        ConfigError: It does not.
    """
    if 'checkpoint' not in network:
        return
    found, _ = expected_of(load_config(network['config'], None))
    if found not in (None, num_classes):
        raise ConfigError(
            f'{side}: {network["config"]} tells {found} classes apart, and the data have '
            f'{num_classes}; train one on these data, or pair features: mmseg-kd layers --pair.'
        )


def first_terms(teacher: Mapping[str, Any], student: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A term to begin with, from the teacher to the student: their class scores, where they fit.

    Args:
        teacher, student: What a config says of them.

    Raises:
        ConfigError: A network cannot be built, or nothing in them can be compared.
    """
    sides = ((teacher, 'teacher', True), (student, 'student', False))
    with DefaultScope.overwrite_default_scope('mmseg'):
        specs = [(parse_network(one, side, is_teacher), side) for one, side, is_teacher in sides]
        built = [build_segmentor(without_initialisation(one.model), side) for one, side in specs]
        proposals = propose(*built)
    for proposal in proposals:
        if proposal.term is not None and not proposal.instead:
            term = dict(proposal.term)
            if isinstance(term['student_layer'], str):
                term['loss'] = {**term['loss'], 'ignore_index': 255}
            return [term]
    raise ConfigError(
        'teacher and student have no layers that can be compared; see mmseg-kd layers CONFIG.'
    )
