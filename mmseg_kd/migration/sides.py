"""`student=...` and `teacher=...`: a network, its weights, and what must be run to have them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from mmseg_kd.config.text import Name
from mmseg_kd.migration.layers import MIT, SWIN
from mmseg_kd.migration.networks import Network
from mmseg_kd.migration.report import Report
from mmseg_kd.migration.source import KeyPath
from mmseg_kd.migration.zoo import Reference, find_reference

# Addresses and file names of backbones trained on ImageNet; others are of whole segmentors.
_BACKBONE_ADDRESS = re.compile(r'(open-mmlab|torchvision|mmcls|timm)://')
_BACKBONE_FILE = re.compile(r'(mit_b\d|swin_|resnet\d|resnetv1)')

# What of the images' normalisation a teacher may have otherwise than mmseg's own configs.
_NORMALISATION = ('mean', 'std', 'bgr_to_rgb', 'pad_val')


def is_backbone(file: str) -> bool:
    """Whether a file or address is by its name that of a backbone alone."""
    name = PurePosixPath(file).name
    return bool(_BACKBONE_ADDRESS.match(file) or _BACKBONE_FILE.match(name))


class Sides:
    """Writes networks for the new config.

    Args:
        preprocessor: How the images come: the new config's `data_preprocessor`.
        report: Gets remarks, and the commands that convert checkpoints.
    """

    def __init__(self, preprocessor: Mapping[str, Any], report: Report) -> None:
        self._preprocessor = preprocessor
        self._report = report

    def student(self, network: Network, path: KeyPath) -> dict[str, Any]:
        """A student that starts from its backbone's weights.

        Args:
            path: The keys of what names those weights.
        """
        if network.nvidia_head:
            self._report.note(
                ('model', 'cfg_s', 'decode_head'),
                "the student gets mmseg's SegformerHead, with batch normalisation and ReLU behind "
                "its four linear layers; NVIDIA's has neither",
            )
        reference = find_reference(network.model)
        initial = self._initial_weights(network, reference, path)
        if reference is None:
            backbone = dict(network.model.get('backbone', {}))
            if initial is not None:
                backbone['init_cfg'] = dict(type='Pretrained', checkpoint=initial)
            return {**network.model, 'backbone': backbone}
        return _reference(reference, reference.changes | _starting_from(initial, reference))

    def trained_student(
        self, network: Network, file: str, path: KeyPath, part: str | None = None
    ) -> dict[str, Any]:
        """A student that goes on from a checkpoint; arguments as in `trained`."""
        side = self.trained(network, file, path, part)
        reference = find_reference(network.model)
        if reference is not None:
            options = side.get('cfg_options', {}) | _starting_from(None, reference)
            side['cfg_options'] = options
        return side

    def trained(
        self, network: Network, file: str, path: KeyPath, part: str | None = None
    ) -> dict[str, Any]:
        """A network with the weights of a checkpoint, such as a teacher.

        Args:
            file: The old checkpoint.
            path: The keys of what names it.
            part: Which network of an SDModule's checkpoint it is. Where no name has changed, the
                student is found in such a file without a conversion.
        """
        if network.renamed:
            file = self._converted(file, path, part)
        model = network.model
        if network.nvidia_head:
            model = {**model, 'decode_head': {**model['decode_head'], 'act_cfg': None}}
            self._report.note(
                path,
                "NVIDIA's head has no activation behind its four linear layers, mmseg's has: "
                'with act_cfg=None in decode_head the old weights give the old scores',
            )
        return {**self.described(model), 'checkpoint': file}

    def described(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """A network whose weights come from elsewhere, or from nowhere."""
        reference = find_reference(model)
        if reference is None:
            return {'type': model['type'], 'data_preprocessor': Name('data_preprocessor'), **model}
        changes = dict(reference.changes)
        theirs = reference.model['data_preprocessor']
        for key in _NORMALISATION:
            if self._preprocessor.get(key) != theirs.get(key):
                changes[f'model.data_preprocessor.{key}'] = self._preprocessor.get(key)
        return _reference(reference, changes)

    def _initial_weights(
        self, network: Network, reference: Reference | None, path: KeyPath
    ) -> str | None:
        """What the backbone starts from today."""
        old = network.initial_weights
        if old is None:
            return None
        public = reference.initial_weights if reference else None
        if public is not None and old != public and _same_release(old, public):
            self._report.note(path, f"mmseg's copy of {old} takes its place: {public}")
            return public
        if MIT in network.tables or SWIN in network.tables:
            return self._converted(old, path)
        return old

    def _converted(self, file: str, path: KeyPath, part: str | None = None) -> str:
        """The name of a checkpoint after its conversion, for which the user gets the command."""
        if '://' in file:
            local = PurePosixPath(file).name
            self._report.note(path, f'fetch {file} as {local} first')
            file = local
        file = str(PurePosixPath(file))
        suffix = f'_{part}_mmseg' if part else '_mmseg'
        old = PurePosixPath(file)
        new = str(old.with_name(f'{old.stem}{suffix}.pth'))
        side = f' --side {part}' if part else ''
        command = f'checkpoint {shlex.quote(file)} {shlex.quote(new)}{side}'
        self._report.run(f'mmseg-kd convert-segdistill {command}')
        return new


def _same_release(file: str, public: str) -> bool:
    """Whether mmseg's file is a conversion of this one, by its name: `<name>_<date>-<hash>.pth`."""
    stem = re.escape(PurePosixPath(file).stem)
    return bool(re.fullmatch(rf'{stem}_\d{{8}}-[0-9a-f]{{8}}\.pth', PurePosixPath(public).name))


def _starting_from(initial: str | None, reference: Reference) -> dict[str, Any]:
    """Changes after which the backbone of a config starts from these weights."""
    changes: dict[str, Any] = {}
    if initial == reference.initial_weights:
        return changes
    if reference.model.get('pretrained') is not None:
        changes['model.pretrained'] = None
    if initial is not None:
        changes['model.backbone.init_cfg'] = dict(type='Pretrained', checkpoint=initial)
    elif reference.model['backbone'].get('init_cfg'):
        changes['model.backbone.init_cfg'] = None
    return changes


def _reference(reference: Reference, changes: Mapping[str, Any]) -> dict[str, Any]:
    side: dict[str, Any] = dict(config=reference.config)
    return {**side, 'cfg_options': dict(changes)} if changes else side
