"""What mmengine and mmseg read through their own functions."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from builders import MeanModel, RunsCode, build, resnet, save_weights
from mmengine.config import Config, ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim import OneCycleParamScheduler
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint
from mmseg.apis import init_model
from safetensors.torch import save_file

from mmseg_kd.checkpoints import checkpoint_trust, read_checkpoint
from mmseg_kd.checkpoints.host_loader import load_from_weights_only, take_over_loading
from mmseg_kd.errors import CheckpointError

# A file that a pickle opened stays open.
pytestmark = pytest.mark.filterwarnings('ignore::ResourceWarning')
# What mmseg's inference API looks for.
META = dict(dataset_meta='')


def test_every_scheme_of_the_host_is_taken_over() -> None:
    assert set(CheckpointLoader._schemes.values()) == {load_from_weights_only}
    assert '' in CheckpointLoader._schemes
    assert 'http://' in CheckpointLoader._schemes


def test_readers_of_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))

    def own(filename: str, map_location: Any = None) -> dict[str, str]:
        return dict(read=filename)

    CheckpointLoader.register_scheme('own://', own)
    take_over_loading()
    assert CheckpointLoader.load_checkpoint('own://a') == dict(read='own://a')
    with pytest.raises(CheckpointError, match='there is no such checkpoint file'):
        CheckpointLoader.load_checkpoint('a')


@pytest.fixture
def unsafe(tmp_path: Path) -> tuple[str, Path]:
    """A checkpoint of `resnet()` that writes a file when it is unpickled, and that file."""
    path, target = tmp_path / 'unsafe.pth', tmp_path / 'written'
    state = torch.load(save_weights(resnet(), path), weights_only=True)
    torch.save(dict(state_dict=state, meta=META, more=RunsCode(open, str(target), 'w')), path)
    return str(path), target


def by_function(source: str) -> Any:
    network = build(resnet())
    load_checkpoint(network, source, map_location='cpu')
    return network


def by_init_cfg(source: str) -> Any:
    return build(resnet(init_cfg=dict(type='Pretrained', checkpoint=source)))


def by_prefix(source: str) -> Any:
    model = resnet()
    init_cfg = dict(type='Pretrained', checkpoint=source, prefix='backbone.')
    model['backbone'] = {**model['backbone'], 'init_cfg': init_cfg}
    return build(model)


def by_inference_api(source: str) -> Any:
    return init_model(Config(dict(model=resnet(), default_scope='mmseg')), source, device='cpu')


@pytest.mark.parametrize('road', [by_function, by_init_cfg, by_prefix, by_inference_api])
def test_roads(road: Any, unsafe: tuple[str, Path], tmp_path: Path) -> None:
    source, target = unsafe
    expected = r'unsafe\.pth: refused.*would run code \(_?io\.open\)'  # by the version of Python
    with pytest.raises(CheckpointError, match=expected):
        road(source)
    assert not target.exists()
    with checkpoint_trust(True):
        network = road(source)
    assert target.exists()
    key = 'backbone.layer1.0.conv1.weight'
    expected = read_trusted(source)['state_dict'][key]
    assert torch.equal(network.state_dict()[key], expected)


def read_trusted(source: str) -> dict[str, Any]:
    with checkpoint_trust(True):
        return read_checkpoint(source)


def test_safetensors(tmp_path: Path) -> None:
    state = torch.load(save_weights(resnet(), tmp_path / 'a.pth'), weights_only=True)
    save_file(state, tmp_path / 'a.safetensors', META)
    for road in (by_init_cfg, by_prefix, by_inference_api):
        found = road(str(tmp_path / 'a.safetensors')).state_dict()
        assert all(torch.equal(found[key], state[key]) for key in found if 'backbone' in key)


def test_http_is_refused() -> None:
    with pytest.raises(CheckpointError, match='expected a file or an https URL'):
        by_function('http://example.org/a-01234567.pth')


# What a runner saves


class Images(list[Any]):
    """A data set whose metainfo comes from a config."""

    metainfo: ClassVar = dict(classes=('a', 'b'), label_map=ConfigDict(a=1))


def make_runner(folder: Path, iterations: int, **options: Any) -> Runner:
    """A runner with an optimiser, schedules and an average of the weights that all have state."""
    images = Images(dict(inputs=torch.full((3, 2, 2), float(i))) for i in range(4))
    return Runner(
        model=MeanModel(),
        work_dir=str(folder),
        train_dataloader=dict(
            dataset=images, batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False)
        ),
        train_cfg=dict(by_epoch=False, max_iters=iterations),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01, amsgrad=True)),
        param_scheduler=[
            dict(type='OneCycleLR', eta_max=0.1, total_steps=9, by_epoch=False),
            dict(type='PolyLR', end=9, by_epoch=False),
        ],
        custom_hooks=[dict(type='EMAHook')],
        default_hooks=dict(
            checkpoint=dict(
                type='CheckpointHook', interval=2, by_epoch=False, published_keys=['state_dict']
            )
        ),
        log_level='ERROR',
        experiment_name=f'{folder.name}{iterations}',
        **options,
    )


def test_all_that_a_runner_saves_is_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runner = make_runner(tmp_path, 2)
    for key, value in {
        'best': np.float64(0.5),
        'scores': np.arange(3.0),
        'names': np.array(['a', 'b']),
        'flags': np.array([True]),
        'python': random.getstate(),
        'numpy': np.random.get_state(),
        'torch': torch.get_rng_state(),
        'seen': {1, 2},
    }.items():
        runner.message_hub.update_info(key, value)
    runner.train()
    path = tmp_path / 'iter_2.pth'
    found = read_checkpoint(str(path))
    unsafe = torch.load(path, weights_only=False)
    assert found.keys() == unsafe.keys() >= {'optimizer', 'param_schedulers', 'ema_state_dict'}
    info, expected = (c['message_hub']['runtime_info'] for c in (found, unsafe))
    assert info.keys() == expected.keys()
    for key in ('best', 'seen', 'python'):
        assert type(info[key]) is type(expected[key])
        assert info[key] == expected[key]
    for key in ('scores', 'names', 'flags', 'torch'):
        assert info[key].dtype == expected[key].dtype
        assert (info[key] == expected[key]).all()
    np.random.set_state(info['numpy'])
    assert type(found['meta']['dataset_meta']['label_map']) is ConfigDict
    history = found['message_hub']['log_scalars']['train/loss']
    assert isinstance(history, HistoryBuffer)
    assert history.mean() == unsafe['message_hub']['log_scalars']['train/loss'].mean()
    functions = [s['anneal_func'] for s in found['param_schedulers'] if 'anneal_func' in s]
    assert functions == [OneCycleParamScheduler._annealing_cos]
    # The hook that publishes a checkpoint has read it too.
    [published] = tmp_path.glob('iter_2-*.pth')
    assert read_checkpoint(str(published)).keys() == {'state_dict'}

    resumed = make_runner(tmp_path, 4, resume=True)
    resumed.train()
    assert resumed.iter == 4
    assert 'weights_only' not in caplog.text


def test_a_resume_runs_no_config_of_the_checkpoint(tmp_path: Path) -> None:
    """mmengine executes `meta['config']`, a text, which torch's reader cannot object to."""
    make_runner(tmp_path / 'first', 2).train()
    target = tmp_path / 'written'
    content = torch.load(tmp_path / 'first' / 'iter_2.pth', weights_only=False)
    content['meta']['config'] = f"open({str(target)!r}, 'w').close()"
    torch.save(content, tmp_path / 'a.pth')
    for name, trusted in (('second', False), ('third', True)):
        runner = make_runner(tmp_path / name, 4, resume=True, load_from=str(tmp_path / 'a.pth'))
        with checkpoint_trust(trusted):
            runner.train()
        assert runner.iter == 4
        assert target.exists() is trusted


@pytest.mark.parametrize(
    ('owner', 'name'),
    [
        (HistoryBuffer, '__init__'),
        (HistoryBuffer, '__class__'),
        (OneCycleParamScheduler, '__init__'),
        (OneCycleParamScheduler, '_get_value'),
        ('text', 'format'),
        ([], 'append'),
    ],
)
def test_getattr_of_anything_else_is_refused(owner: Any, name: str, tmp_path: Path) -> None:
    path = tmp_path / 'a.pth'
    torch.save(dict(meta=RunsCode(getattr, owner, name)), path)
    with pytest.raises(CheckpointError, match=r'would run code \(builtins\.getattr\)'):
        read_checkpoint(str(path))


def test_no_schedule_is_made(tmp_path: Path) -> None:
    path = tmp_path / 'a.pth'
    for make in (OneCycleParamScheduler, OneCycleParamScheduler.__new__):
        torch.save(dict(meta=RunsCode(make, OneCycleParamScheduler)), path)
        with pytest.raises(CheckpointError):
            read_checkpoint(str(path))
