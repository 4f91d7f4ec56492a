from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import MeanModel, RunsCode
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner
from mmseg.models.backbones.swin import WindowMSA
from torch import Tensor, nn

from mmseg_kd.checkpoints import checkpoint_trust, load_weights, read, read_state_dict
from mmseg_kd.errors import CheckpointError

State = dict[str, Tensor]


def make_network(seed: int = 0, channels: int = 4) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [('conv', nn.Conv2d(3, channels, 1)), ('bn', nn.BatchNorm2d(channels))]
    return nn.Sequential(OrderedDict(layers))


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


def save(content: Any, path: Path) -> str:
    torch.save(content, path)
    return str(path)


TERMS = {'terms.cgd.connector.conv.weight': torch.zeros(1)}
FORMS: dict[str, Callable[[State], Any]] = {
    'bare': lambda s: s,
    'state_dict': lambda s: dict(state_dict=s, meta=dict(iter=7), optimizer=dict()),
    'model': lambda s: dict(model=s, epoch=3),
    'module': lambda s: dict(state_dict=prefixed(s, 'module.')),
    'student': lambda s: dict(state_dict={**prefixed(s, 'student.'), **TERMS}),
    'module.student': lambda s: prefixed({**prefixed(s, 'student.'), **TERMS}, 'module.'),
    'other entries': lambda s: {**s, 'version': 3, 'classes': ['a', 'b']},
}


@pytest.mark.parametrize('form', FORMS)
def test_forms_of_files(form: str, tmp_path: Path) -> None:
    trained = make_network(seed=1)
    trained.bn.running_mean.fill_(0.5)
    source = save(FORMS[form](trained.state_dict()), tmp_path / 'a.pth')
    network = make_network(seed=2)
    report = load_weights(network, source)
    assert report.source == source
    assert sorted(report.loaded) == sorted(network.state_dict())
    assert not (report.missing or report.unexpected or report.mismatched)
    for key, value in trained.state_dict().items():
        assert torch.equal(network.state_dict()[key], value)


def test_file_of_the_old_format(tmp_path: Path) -> None:
    path = tmp_path / 'a.pth'
    state = make_network(seed=1).state_dict()
    torch.save(dict(state_dict=state), path, _use_new_zipfile_serialization=False)
    assert read_state_dict(str(path)).keys() == state.keys()


def test_student_prefix_is_left_where_other_networks_have_it_inside(tmp_path: Path) -> None:
    state = {'backbone.student.weight': torch.ones(1)}
    assert read_state_dict(save(state, tmp_path / 'a.pth')) == state


def test_report_of_what_does_not_fit(tmp_path: Path) -> None:
    state = dict(make_network(seed=1).state_dict())
    del state['bn.running_mean'], state['bn.num_batches_tracked']
    state['bn.bias'] = torch.zeros(7)
    state['head.weight'] = torch.zeros(2, 2)
    network = make_network()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    report = load_weights(network, save(state, tmp_path / 'a.pth'), strict=False)
    assert sorted(report.loaded) == ['bn.running_var', 'bn.weight', 'conv.bias', 'conv.weight']
    # Files of old versions have no num_batches_tracked, and eval mode does not use it.
    assert report.missing == ['bn.running_mean']
    assert report.unexpected == ['head.weight']
    assert report.mismatched == {'bn.bias': ((7,), (4,))}
    assert torch.equal(network.conv.weight, state['conv.weight'])
    for key in ('bn.bias', 'bn.running_mean'):
        assert torch.equal(network.state_dict()[key], before[key])
    for part in (
        '4 tensors loaded, 1 missing, 1 unexpected, 1 of another shape',
        'missing: bn.running_mean',
        'unexpected: head.weight',
        'bn.bias (7 in the file, 4 in the network)',
    ):
        assert part in str(report)


def test_a_file_may_lack_what_follows_from_the_size_of_a_window(tmp_path: Path) -> None:
    network = nn.Sequential(WindowMSA(4, 2, (3, 3)))
    state = network.state_dict()
    index = state.pop('0.relative_position_index').clone()
    report = load_weights(network, save(state, tmp_path / 'a.pth'))
    assert report.missing == []
    assert torch.equal(network[0].relative_position_index, index)


@pytest.mark.parametrize('change', [lambda s: s.pop('bn.bias'), lambda s: s['bn.bias'].resize_(7)])
def test_a_file_must_fill_all_of_the_network(
    change: Callable[[State], Any], tmp_path: Path
) -> None:
    state = {key: value.clone() for key, value in make_network(seed=1).state_dict().items()}
    change(state)
    source = save({**state, 'extra': torch.zeros(1)}, tmp_path / 'a.pth')
    network = make_network()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    expected = r'(?s)a\.pth: .*bn\.bias.*Give the checkpoint of the same architecture\.$'
    with pytest.raises(CheckpointError, match=expected):
        load_weights(network, source)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert load_weights(network, source, strict=False).unexpected == ['extra']


def test_long_lists_are_cut_in_the_text_only(tmp_path: Path) -> None:
    extra = {f'extra.{i}': torch.zeros(1) for i in range(10)}
    state = {**make_network().state_dict(), **extra}
    report = load_weights(make_network(), save(state, tmp_path / 'a.pth'))
    assert report.unexpected == list(extra)
    assert 'extra.3, ... (6 more)' in str(report)
    assert 'extra.4' not in str(report)


def test_file_of_another_network(tmp_path: Path) -> None:
    network = make_network()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    source = save({'stem.weight': torch.zeros(3)}, tmp_path / 'a.pth')
    expected = 'another network: none of its 1 tensors fits. It has stem.weight; expected bn.bias'
    with pytest.raises(CheckpointError, match=expected):
        load_weights(network, source)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_file_of_the_same_network_with_other_widths(tmp_path: Path) -> None:
    source = save(
        {k: v for k, v in make_network(channels=8).state_dict().items() if v.ndim},
        tmp_path / 'a.pth',
    )
    with pytest.raises(CheckpointError, match='belongs to another network'):
        load_weights(make_network(channels=4), source)


@pytest.mark.parametrize('name', ['missing.pth', '.', 'no/such/folder.pth'])
def test_file_that_is_not_there(name: str, tmp_path: Path) -> None:
    source = str(tmp_path / name)
    with pytest.raises(CheckpointError, match='there is no such checkpoint file') as caught:
        load_weights(make_network(), source)
    assert source in str(caught.value)


def test_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    save(make_network().state_dict(), tmp_path / 'a.pth')
    assert 'conv.weight' in read_state_dict('~/a.pth')


@pytest.mark.parametrize('kept', [0, 1, 10, 0.3, 0.7, -20])
@pytest.mark.parametrize('new_format', [True, False])
def test_torn_file(kept: float, new_format: bool, tmp_path: Path) -> None:
    path = tmp_path / 'a.pth'
    torch.save(make_network().state_dict(), path, _use_new_zipfile_serialization=new_format)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(CheckpointError, match='torn or no checkpoint'):
        read_state_dict(str(path))


@pytest.mark.parametrize(
    'content',
    [
        b'version https://git-lfs.github.com/spec/v1\n',
        b'<!DOCTYPE html>\n<html></html>',
        b'not found',
        b'hello',
        b'a',
        b'X',
        b'\n',
        b'{"a": 1}',
        bytes(range(256)),
    ],
)
def test_file_that_is_something_else(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / 'a.pth'
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match='torn or no checkpoint') as caught:
        read_state_dict(str(path))
    assert 'weights_only' not in str(caught.value)


@pytest.mark.parametrize('content', [[1, 2], 'text', torch.zeros(3)])
def test_no_dict(content: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f'a dict of tensors, got {type(content).__name__}'):
        read_state_dict(save(content, tmp_path / 'a.pth'))


@pytest.mark.parametrize('content', [{}, dict(epoch=3), dict(state_dict={}, epoch=3)])
def test_no_tensors(content: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match='there are no tensors in it'):
        read_state_dict(save(content, tmp_path / 'a.pth'))


@pytest.mark.parametrize('new_format', [True, False])
@pytest.mark.parametrize(
    ('function', 'arguments', 'name'),
    [
        (open, ('{file}', 'w'), 'open'),
        (exec, ("open('{file}', 'w')",), 'exec'),
        (os.system, ('touch {file}',), f'{os.name if os.name == "nt" else "posix"}.system'),
        (Path.touch, (Path('{file}'),), 'Path'),
    ],
)
def test_file_that_would_run_code_is_refused(
    function: Any, arguments: tuple[Any, ...], name: str, new_format: bool, tmp_path: Path
) -> None:
    target = tmp_path / 'written'
    arguments = tuple(type(a)(str(a).format(file=target)) for a in arguments)
    path = tmp_path / 'a.pth'
    content = dict(state_dict=make_network().state_dict(), meta=RunsCode(function, *arguments))
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(CheckpointError, match=rf'would run code \(.*{name}\)'):
        load_weights(make_network(), str(path))
    assert not target.exists()
    # The file is what this test means it to be.
    torch.load(path, weights_only=False)
    assert target.exists()


def test_trust_is_told_where_it_is_made_use_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(read, 'print_log', lambda text, **_: said.append(text))
    state = make_network().state_dict()
    plain = save(dict(state_dict=state), tmp_path / 'a.pth')
    unsafe = save(dict(state_dict=state, meta=RunsCode(str, 'a')), tmp_path / 'b.pth')
    torn = tmp_path / 'c.pth'
    torn.write_bytes(Path(plain).read_bytes()[:-20])
    with checkpoint_trust(True):
        assert read_state_dict(plain).keys() == state.keys()
        assert said == []
        assert read_state_dict(unsafe).keys() == state.keys()
        assert len(said) == 1
        assert said[0].startswith(f'{unsafe}: ')
        with pytest.raises(CheckpointError, match='torn or no checkpoint'):
            read_state_dict(str(torn))
    with pytest.raises(CheckpointError, match=r'would run code \(str\)'):
        read_state_dict(unsafe)


def test_whole_network_is_refused(tmp_path: Path) -> None:
    source = save(make_network(), tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match=r'\(torch\.nn\.\S+Sequential\)'):
        read_state_dict(source)


def test_checkpoint_of_a_runner(tmp_path: Path) -> None:
    """Iteration, optimiser, log history and numpy values are in it, and it loads."""
    images = [dict(inputs=torch.full((3, 2, 2), float(i))) for i in range(4)]
    runner = Runner(
        model=MeanModel(),
        work_dir=str(tmp_path),
        train_dataloader=dict(
            dataset=images, batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False)
        ),
        train_cfg=dict(by_epoch=False, max_iters=3),
        optim_wrapper=dict(optimizer=dict(type='Adam', lr=0.01)),
        param_scheduler=dict(type='LinearLR', start_factor=0.5, end=3, by_epoch=False),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=3, by_epoch=False)),
        log_level='ERROR',
        experiment_name='toy',
    )
    runner.message_hub.update_info('best', np.float64(0.5))
    runner.message_hub.update_info('scores', np.arange(3.0))
    runner.train()
    path = tmp_path / 'iter_3.pth'
    content = torch.load(path, weights_only=False)
    history = content['message_hub']['log_scalars']['train/loss']
    assert isinstance(history, HistoryBuffer)
    assert isinstance(content['message_hub']['runtime_info']['scores'], np.ndarray)
    network = MeanModel()
    report = load_weights(network, str(path))
    assert sorted(report.loaded) == ['conv.bias', 'conv.weight']
    assert torch.equal(network.conv.weight, runner.model.conv.weight)


@pytest.mark.filterwarnings('ignore:Detected pickle protocol 4')
def test_plain_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'a.pth'
    target = tmp_path / 'written'
    for protocol, named in ((2, r'_?io\.open'), (4, 'pickle protocol 4 or 5')):
        path.write_bytes(pickle.dumps(RunsCode(open, str(target), 'w'), protocol))
        with pytest.raises(CheckpointError, match=rf'run code \({named}\)'):
            read_state_dict(str(path))
        assert not target.exists()


@pytest.mark.parametrize(
    'key',
    [
        'backbone.patch_embed1.proj.weight',
        'segformer.encoder.patch_embeddings.0.proj.weight',
        'layers.0.blocks.0.attn.qkv.weight',
    ],
)
def test_files_of_other_projects_are_to_be_converted(tmp_path: Path, key: str) -> None:
    path = save({key: torch.zeros(2)}, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='mmseg-kd convert-segdistill checkpoint'):
        load_weights(nn.Linear(2, 2), str(path))
    path = save(dict(other=torch.zeros(2)), tmp_path / 'b.pth')
    with pytest.raises(CheckpointError, match=r'expected bias, weight\.$'):
        load_weights(nn.Linear(2, 2), str(path))
