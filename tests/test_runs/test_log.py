"""The curves of a run, over all of its starts."""

from __future__ import annotations

from math import isnan, nan
from pathlib import Path

import pytest
from builders import resnet, write_config, write_dataset
from mmseg.visualization import SegLocalVisualizer
from run_logs import train_line, val_line, write_run, write_start

from mmseg_kd.cli import train
from mmseg_kd.errors import LogError
from mmseg_kd.runs.log import Curve, experiment_of, read_log


def points(curve: Curve | None) -> dict[int, float]:
    assert curve is not None
    return dict(zip(curve.iterations.tolist(), curve.values.tolist(), strict=True))


def test_training_and_validation_are_kept_apart(tmp_path: Path) -> None:
    log = read_log(write_run(tmp_path, [20.0, 30.0]))
    assert points(log.train['loss']) == {100: 10.0, 200: 5.0}
    assert points(log.train['time']) == {100: 0.5, 200: 0.5}
    assert points(log.val['time']) == {100: 0.1, 200: 0.1}
    assert points(log.curve('mIoU')) == {100: 20.0, 200: 30.0}
    assert points(log.curve('lr')) == {100: 0.1, 200: 0.1}
    assert log.curve('mIou') is None
    assert set(log.train) == {'lr', 'loss', 'time'}
    assert set(log.val) == {'aAcc', 'mIoU', 'time'}
    assert log.unread == 0


def test_names_are_those_of_a_log_without_hierarchy(tmp_path: Path) -> None:
    lines = [
        '{"train/lr": 0.1, "train/kd.cgd": 1.0, "iter": 50, "step": 50}',
        '{"val/mIoU": 20.0, "val/time": 0.5, "step": 50}',
    ]
    write_start(tmp_path, '20260101_000000', lines)
    log = read_log(tmp_path)
    assert set(log.train) == {'lr', 'kd.cgd'}
    assert set(log.val) == {'mIoU', 'time'}


@pytest.mark.parametrize('what', ['.', '20260101_000000', '20260101_000000/vis_data/scalars.json'])
def test_a_log_is_found_by_its_work_dir_its_start_and_itself(tmp_path: Path, what: str) -> None:
    write_run(tmp_path, [20.0])
    assert points(read_log(tmp_path / what).curve('mIoU')) == {100: 20.0}


def test_what_a_resumed_run_goes_over_again_counts_once(tmp_path: Path) -> None:
    """Killed after 300, resumed from the checkpoint of 100."""
    first = [train_line(100, 1.0), val_line(100, 10.0), train_line(200, 2.0), val_line(200, 20.0)]
    write_start(tmp_path, '20260101_000000', [*first, train_line(300, 3.0), val_line(300, 30.0)])
    write_start(tmp_path, '20260101_000001', [], end='')  # ended before it logged anything
    write_start(tmp_path, '20260102_000000', [train_line(200, 2.5), train_line(300, 3.5)])
    log = read_log(tmp_path)
    assert points(log.curve('loss')) == {100: 1.0, 200: 2.5, 300: 3.5}
    # A validation that the resumed run left out is none of its own.
    assert points(log.curve('mIoU')) == {100: 10.0}
    assert [start.first for start in log.starts] == [100, None, 200]


def test_the_training_before_a_validation_that_was_made_up_for_counts(tmp_path: Path) -> None:
    """Killed after 100 and before its validation, which the resumed run begins with."""
    write_start(tmp_path, '20260101_000000', [train_line(50, 1.0), train_line(100, 2.0)])
    write_start(tmp_path, '20260102_000000', [val_line(100, 10.0), train_line(150, 3.0)])
    log = read_log(tmp_path)
    assert points(log.curve('loss')) == {50: 1.0, 100: 2.0, 150: 3.0}
    assert points(log.curve('mIoU')) == {100: 10.0}


def test_a_run_that_began_anew_counts_alone(tmp_path: Path) -> None:
    write_start(tmp_path, '20260101_000000', [train_line(100, 1.0), train_line(200, 2.0)])
    write_start(tmp_path, '20260102_000000', [train_line(50, 9.0)])
    assert points(read_log(tmp_path).curve('loss')) == {50: 9.0}


@pytest.mark.parametrize(
    'torn',
    ['{"loss": 0.3, "ite', '{"loss": 0.3}', '[]', '3', '"iter"', '\x00\x00', '{"iter": null}'],
)
def test_torn_lines_are_left_out_and_counted(tmp_path: Path, torn: str) -> None:
    write_start(tmp_path, 'a', [train_line(100, 1.0), torn], end='')
    log = read_log(tmp_path)
    assert points(log.curve('loss')) == {100: 1.0}
    assert log.unread == 1


def test_bytes_that_are_no_text_harm_only_their_line(tmp_path: Path) -> None:
    file = write_start(tmp_path, 'a', [train_line(100, 1.0)])
    file.write_bytes(b'\xff\xfe\n' + file.read_bytes())
    log = read_log(tmp_path)
    assert (points(log.curve('loss')), log.unread) == ({100: 1.0}, 1)


def test_metrics_logged_by_epoch_are_where_the_training_was(tmp_path: Path) -> None:
    lines = [train_line(100, 1.0), val_line(1, 10.0), train_line(200, 1.0), val_line(2, 20.0)]
    write_start(tmp_path, 'a', lines)
    assert points(read_log(tmp_path).curve('mIoU')) == {100: 10.0, 200: 20.0}


def test_best_and_last(tmp_path: Path) -> None:
    curve = read_log(write_run(tmp_path, [20.0, nan, 40.0, 30.0])).curve('mIoU')
    assert curve is not None
    assert (curve.best, curve.last) == (40.0, 30.0)
    nothing = read_log(write_run(tmp_path / 'nan', [nan])).curve('mIoU')
    assert nothing is not None
    assert isnan(nothing.best)


def test_no_log_is_an_error_with_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r'expected a work dir with .*found neither'):
        read_log(tmp_path)
    with pytest.raises(LogError, match='found nothing of this name'):
        read_log(tmp_path / 'absent')
    write_start(tmp_path, 'a', ['{"lo'], end='')
    with pytest.raises(LogError, match='nothing was logged yet'):
        read_log(tmp_path)


def test_runs_of_one_experiment_differ_in_what_is_their_own_only(tmp_path: Path) -> None:
    def experiment(name: str, config: str | None) -> object:
        return experiment_of(read_log(write_run(tmp_path / name, [1.0], config)))

    text = "model = dict(type='A')\nwork_dir = 'a'\nrandomness = dict(seed=0)\n"
    one = experiment('one', text)
    assert one == experiment('other', text.replace('=0', '=1').replace("'a'", "'b'"))
    assert one != experiment('model', text.replace("'A'", "'B'"))
    assert experiment('none', None) is None
    assert experiment('broken', 'model = (') is None


def test_trainings_are_read_and_are_one_experiment_whatever_their_seeds(tmp_path: Path) -> None:
    config = write_config(tmp_path, resnet(), write_dataset(tmp_path / 'data'))
    logs = []
    for seed in ('0', '1'):
        SegLocalVisualizer._instance_dict.clear()  # mmengine's is one a process
        arguments = [str(config), '--seed', seed, '--work-dir', str(tmp_path / seed)]
        assert train.main([*arguments, '--cfg-options', 'train_cfg.val_interval=2']) == 0
        logs.append(read_log(tmp_path / seed))
    for log in logs:
        assert list(points(log.curve('decode.loss_ce'))) == [1, 2, 3, 4]
        assert list(points(log.curve('mIoU'))) == [2, 4]
        assert log.unread == 0
    assert points(logs[0].curve('loss')) != points(logs[1].curve('loss'))
    assert experiment_of(logs[0]) == experiment_of(logs[1])
    assert experiment_of(logs[0]) is not None
