"""Roles and titles of runs, and work dirs that are unfinished or broken."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from report_project import HOSTILE, Project
from run_logs import train_line, write_run, write_start
from test_report.test_page import Page

from mmseg_kd.analysis.named_networks import load_networks, read_networks
from mmseg_kd.checkpoints import read_checkpoint
from mmseg_kd.cli import test as test_command
from mmseg_kd.cli.report import main
from mmseg_kd.report.run import read_runs
from mmseg_kd.runs.work_dir import find_config


def titles(*names: object) -> list[tuple[str, str]]:
    return [(run.title, run.role) for run in read_runs([str(name) for name in names])]


def test_roles_are_those_of_the_configs(project: Project) -> None:
    both = [('KL + CD', 'student'), ('baseline', 'baseline'), ('teacher', 'teacher')]
    assert titles(project.teacher, project.baseline, project.student) == both
    # The teacher that the configs name, whose own folder is not given, comes once.
    assert titles(project.student, project.baseline) == both
    assert titles(project.teacher) == [('teacher', 'network')]
    assert titles(f' any words ={project.teacher}') == [('any words', 'network')]


def test_titles(project: Project, tmp_path: Path) -> None:
    shutil.copytree(project.student, tmp_path / 'second')
    found = titles(f'mine={project.student}', tmp_path / 'second', tmp_path / 'second')
    assert [title for title, _ in found] == ['mine', 'KL + CD', 'second', 'teacher']


def test_plain_student_is_the_baseline(project: Project, tmp_path: Path) -> None:
    student, *_ = read_runs([str(project.student)])
    plain = tmp_path / 'plain'
    write_run(plain, [20.0])
    assert student.model is not None
    (plain / 'plain.py').write_text(f'work_dir = ""\nmodel = {student.model.to_dict()!r}\n')
    assert titles(project.student, plain)[1] == ('baseline', 'baseline')


def test_a_teacher_that_was_trained_by_a_config_without_terms(
    project: Project, tmp_path: Path
) -> None:
    """As `mmseg-kd init` writes it: it is the student of its own config."""
    teacher = tmp_path / 'teacher'
    shutil.copytree(project.teacher, teacher)
    for file in [*teacher.glob('*.py'), *teacher.glob('*/vis_data/config.py')]:
        network = Config.fromfile(file).model.to_dict()
        wrapped = dict(type='DistillationWrapper', student=network, distillation=[])
        file.write_text(f'{file.read_text()}\nmodel = {wrapped!r}\n')
    for names in ((teacher, project.baseline, project.student), (project.student, teacher)):
        found = titles(*names)
        assert found[0] == ('KL + CD', 'student')
        assert found[-1] == ('teacher', 'teacher')
        assert len(found) == len(names)


def test_teacher_that_was_moved_is_found_by_its_content(project: Project, tmp_path: Path) -> None:
    shutil.copytree(project.teacher, tmp_path / 'elsewhere')
    runs = read_runs([str(project.student), str(tmp_path / 'elsewhere')])
    assert [run.role for run in runs] == ['student', 'teacher']
    # Not its best checkpoint, but what the student learnt from.
    assert runs[1].checkpoint == str(tmp_path / 'elsewhere' / 'iter_4.pth')


def remove(*patterns: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for pattern in patterns:
            for path in folder.glob(pattern):
                path.unlink()

    return damage


def tear_checkpoints(folder: Path) -> None:
    for path in folder.glob('*.pth'):
        path.write_bytes(path.read_bytes()[:1000])


def break_config(folder: Path) -> None:
    for path in (*folder.glob('*.py'), *folder.glob('*/vis_data/config.py')):
        path.write_text('model = dict(\n', encoding='utf-8')


def change_config(old: str, new: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        [path] = folder.glob('*/vis_data/config.py')
        text = path.read_text(encoding='utf-8')
        assert old in text
        path.write_text(text.replace(old, new), encoding='utf-8')

    return damage


def no_validation(folder: Path) -> None:
    [path] = folder.glob('*/vis_data/scalars.json')
    lines = path.read_text(encoding='utf-8').splitlines()
    kept = [line for line in lines if 'mIoU' not in line and '"iter": 4' not in line]
    path.write_text('\n'.join([*kept, '{"loss": 0.3, "ite']), encoding='utf-8')
    for log in folder.glob('*/*.log'):
        log.unlink()


CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    'no checkpoint': (remove('*.pth', 'last_checkpoint'), 'there is no checkpoint in it'),
    'torn checkpoints': (tear_checkpoints, 'none of its checkpoints is whole'),
    'no log': (remove('*/*.log', '*/vis_data/scalars.json'), 'There is no log of a training'),
    'no text of the log': (remove('*/*.log'), 'No log (*/*.log) with an environment'),
    'no config': (
        remove('*.py', '*/vis_data/config.py'),
        'The one in the checkpoint is code: --trust-checkpoint reads it.',
    ),
    'broken config': (
        break_config,
        'The one in the checkpoint is code: --trust-checkpoint reads it.',
    ),
    'no config, no checkpoint': (
        remove('*.py', '*/vis_data/config.py', '*.pth', 'last_checkpoint'),
        'there is no config of a run in it',
    ),
    'no validation, a torn line': (no_validation, 'No validation is in the log yet'),
    'no data': (change_config("data_root='", "data_root='/nowhere"), '/nowhere'),
    'no teacher': (change_config("/teacher/iter_4.pth'", "/gone.pth'"), 'gone.pth is not there'),
    'unknown network': (change_config("'FCNHead'", "'NoSuchHead'"), 'NoSuchHead'),
    'unknown loss': (change_config("'KLLoss'", "'NoSuchLoss'"), 'NoSuchLoss'),
    'another network': (
        change_config('base_channels=4', 'base_channels=6'),
        'of another shape',
    ),
    'shorter than planned': (change_config('max_iters=4', 'max_iters=9'), 'iteration 4 of 9'),
}


@pytest.mark.parametrize('case', CASES)
def test_broken_work_dir_has_a_page_that_says_what_is_missing(
    project: Project, tmp_path: Path, case: str
) -> None:
    damage, expected = CASES[case]
    folder = tmp_path / 'broken'
    shutil.copytree(project.student, folder)
    damage(folder)
    assert main([str(folder), '--pictures', '1']) == 0
    page = Page((folder / 'report.html').read_text(encoding='utf-8'))
    assert expected in ' '.join(page.text.split())
    assert 'Traceback' not in page.text
    # All that a whole run has is there, section by section.
    assert [a['id'] for tag, a in page.elements if tag == 'section'] == [
        'summary', 'configuration', 'curves', 'schedule', 'classes', 'confusion', 'pictures',
        'cost', 'environment',
    ]  # fmt: skip


def test_config_in_a_checkpoint_is_run_where_it_is_trusted(
    project: Project, tmp_path: Path
) -> None:
    folder = tmp_path / 'run'
    shutil.copytree(project.student, folder)
    remove('*.py', '*/vis_data/config.py')(folder)
    trace = tmp_path / 'trace'
    [path] = folder.glob('best_mIoU_*.pth')
    checkpoint = read_checkpoint(str(path))
    checkpoint['meta']['cfg'] += f'\nimport os\nos.mkdir({str(trace)!r})\n'
    torch.save(checkpoint, path)
    assert main([str(folder), '--no-measure']) == 0
    assert not trace.exists()
    assert main([str(folder), '--no-measure', '--trust-checkpoint']) == 0
    assert trace.is_dir()
    page = Page((folder / 'report.html').read_text(encoding='utf-8'))
    assert 'Read from the checkpoint: the folder has no config file.' in page.text


@pytest.mark.parametrize('options', [[], ['--teacher']])
def test_a_test_in_the_work_dir_does_not_change_the_run(
    project: Project, tmp_path: Path, options: list[str]
) -> None:
    folder = tmp_path / 'student'
    shutil.copytree(project.student, folder)
    before = find_config(folder)
    checkpoint = [] if options else [str(folder / 'iter_4.pth')]
    config = str(project.folder / 'student.py')
    assert test_command.main([config, *checkpoint, *options, '--work-dir', str(folder)]) == 0
    assert 'DistillationWrapper' not in (folder / 'student.py').read_text(encoding='utf-8')
    assert find_config(folder) == before
    assert titles(folder)[0] == ('KL + CD', 'student')
    [network] = read_networks([str(folder)])
    assert network.title == 'KL + CD'
    load_networks([network], torch.device('cpu'))


def test_without_checkpoint_the_last_validation_is_shown(project: Project, tmp_path: Path) -> None:
    folder = tmp_path / 'run'
    shutil.copytree(project.student, folder)
    remove('*.pth', 'last_checkpoint')(folder)
    assert main([str(folder)]) == 0
    page = Page((folder / 'report.html').read_text(encoding='utf-8'))
    assert 'validation at iteration 4' in page.text
    [table] = [t for t in page.tables if t[0][0] == 'class']
    assert [row[0] for row in table[1:-1]] == list(HOSTILE)


def test_first_minutes_of_a_run(tmp_path: Path) -> None:
    write_start(tmp_path, '20260101_000000', [train_line(50, 1.0)])
    assert main([str(tmp_path)]) == 0
    text = Page((tmp_path / 'report.html').read_text(encoding='utf-8')).text
    assert 'No result yet' in text
    assert 'No validation is in the log yet' in text


def test_only_folders_with_nothing_of_a_run_are_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'file').write_text('', encoding='utf-8')
    names = [str(tmp_path / name) for name in ('empty', 'file', 'lr=0.1')]
    assert main(names) == 1
    error = capsys.readouterr().err
    assert 'error: 3 problems:' in error
    assert f'{names[0]}: there is nothing of a run in it: no log' in error
    assert f'{names[1]}: that is a file; expected the work dir of a run.' in error
    assert f'{names[2]}: there is no such folder' in error
    assert not list(tmp_path.glob('**/report.html'))
