"""A whole training step of SegFormer-B3 teaching SegFormer-B0 with CGD, against two others.

    python benchmarks/step.py [--batch 2] [--size 512] [--rounds 3] [--json step.json]

| way | what it does |
| --- | --- |
| ours | the step of `DistillationWrapper` |
| floor | the student's step with its own loss, and the teacher's run to the tapped layer |
| usual | teacher in loss mode, both scores upsampled for CGD, mmseg's own loss and accuracy |

Weights are random: they change nothing in the work. Each way runs in a process of its own, in turns
with the others.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mmseg
import torch
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from turns import device_name, measure

import mmseg_kd.register
from mmseg_kd.config.load import load_config
from mmseg_kd.config.network_spec import parse_network
from mmseg_kd.losses import functional
from mmseg_kd.networks.build import replace_sync_bn, without_initialisation

CONFIG = 'distillation_configs/ade20k/segformer-b3_segformer-b0.py::cgd'
LAYER = 'decode_head.conv_seg'
WAYS = ('ours', 'floor', 'usual')


def make_batch(
    batch: int, size: tuple[int, int], classes: int, device: str
) -> tuple[torch.Tensor, list[Any]]:
    """Normalised images and samples, as a data preprocessor gives them."""
    samples = []
    for _ in range(batch):
        sample = SegDataSample(metainfo=dict(padding_size=[0, 0, 0, 0]))
        label = torch.randint(classes, (1, *size), device=device)
        sample.gt_sem_seg = PixelData(data=label)
        samples.append(sample)
    return torch.randn(batch, 3, *size, device=device), samples


class Stepper:
    """One of `WAYS`, with networks and an optimiser of its own.

    Args:
        way: Its name.
        config: Of a distillation.
        options: Changes to the config.
    """

    def __init__(
        self, way: str, config: str = CONFIG, options: Mapping[str, Any] | None = None
    ) -> None:
        MMLogger.get_current_instance().setLevel('ERROR')
        init_default_scope('mmseg')
        self.device = 'cuda' if torch.cuda.is_available() else 'cpu'
        cfg = load_config(config, options).model
        models = {
            side: replace_sync_bn(
                without_initialisation(parse_network(cfg[side], side, True).model)
            )
            for side in ('student', 'teacher')
        }
        step = {'ours': _ours, 'floor': _floor, 'usual': _usual}[way]
        self.network, self.losses = step(models, cfg.distillation, self.device)
        self.optimiser = OptimWrapper(torch.optim.AdamW(self.network.parameters(), lr=1e-6))

    def on_batch(
        self, batch: int, size: tuple[int, int], autocast: bool = False
    ) -> Callable[[], None]:
        """A function that takes one step on a random batch.

        Args:
            batch: How many images.
            size: Their height and width.
            autocast: In bfloat16, as mmengine's AmpOptimWrapper.
        """
        classes = self.network.decode_head.num_classes
        inputs, samples = make_batch(batch, size, classes, self.device)

        def run() -> None:
            with torch.autocast(self.device, torch.bfloat16, enabled=autocast):
                losses = self.losses(inputs, samples)
            total, _ = self.network.parse_losses(losses)
            self.optimiser.update_params(total)

        return run


def make(way: str, batch: int, size: int) -> Callable[[], None]:
    """A function that takes one step."""
    return Stepper(way).on_batch(batch, (size, size))


Step = tuple[Any, Callable[[torch.Tensor, list[Any]], dict[str, torch.Tensor]]]


def _wrapper(models: dict[str, Any], distillation: Any, device: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = f'{folder}/teacher.pth'
        torch.save(MODELS.build(models['teacher']).state_dict(), checkpoint)
        wrapper = MODELS.build(
            dict(
                type='DistillationWrapper',
                student=models['student'],
                teacher={**models['teacher'], 'checkpoint': checkpoint},
                distillation=distillation,
            )
        )
    return wrapper.to(device).train()


def _ours(models: dict[str, Any], distillation: Any, device: str) -> Step:
    wrapper = _wrapper(models, distillation, device)
    return wrapper, wrapper.loss


def _floor(models: dict[str, Any], distillation: Any, device: str) -> Step:
    wrapper = _wrapper(models, distillation, device)
    teacher = wrapper._teachers['teacher']

    def losses(inputs: torch.Tensor, samples: list[Any]) -> dict[str, torch.Tensor]:
        taps = teacher(inputs, samples, [LAYER])
        assert taps.outputs
        found: dict[str, torch.Tensor] = wrapper.student.loss(inputs, samples)
        return found

    return wrapper.student, losses


def _usual(models: dict[str, Any], distillation: Any, device: str) -> Step:
    student: Any = MODELS.build(models['student']).to(device).train()
    teacher = MODELS.build(models['teacher']).to(device).eval().requires_grad_(False)
    taps: dict[str, torch.Tensor] = {}
    for name, network in (('student', student), ('teacher', teacher)):
        network.get_submodule(LAYER).register_forward_hook(
            lambda module, args, output, name=name: taps.update({name: output})
        )
    loss = distillation[0]['loss']

    def losses(inputs: torch.Tensor, samples: list[Any]) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            teacher.loss(inputs, samples)
        found: dict[str, torch.Tensor] = student.loss(inputs, samples)
        size = (inputs.shape[2], inputs.shape[3])
        found['loss_kd'] = distillation[0]['weight'] * functional.group_divergence(
            taps['student'],
            taps['teacher'],
            size=size,
            group_size=loss['group_size'],
            tau=loss['tau'],
        )
        return found

    return student, losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--size', type=int, default=512)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--ways', nargs='+', choices=WAYS, default=WAYS)
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures there too')
    args = parser.parse_args()
    print(f'{CONFIG}, {args.batch}x{args.size}x{args.size}')
    print(f'{device_name()}, {args.threads} threads, {args.rounds} rounds')
    print(
        f'mmseg_kd {mmseg_kd.__version__}, mmseg {mmseg.__version__}, torch {torch.__version__}\n'
    )
    ways = {way: (make, way, args.batch, args.size) for way in args.ways}
    found = measure(ways, args.rounds, args.threads)
    ours = found[args.ways[0]]
    print(f'| way | ms | {args.ways[0]} / it | MiB | {args.ways[0]} / it |')
    print('| --- | ---: | ---: | ---: | ---: |')
    for way, one in found.items():
        print(
            f'| {way} | {one.seconds * 1e3:.0f} | {ours.seconds / one.seconds:.3f} | '
            f'{one.mib:.0f} | {ours.mib / one.mib:.3f} |'
        )
    if args.json is not None:
        rows = {way: asdict(one) for way, one in found.items()}
        args.json.write_text(json.dumps(rows, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
