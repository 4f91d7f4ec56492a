"""The one entry: mmseg-kd COMMAND."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import pytest
import shtab
from builders import ROOT, resnet, save_weights, term, wrapper_config, write_config, write_dataset
from training_runs import free_port

import mmseg_kd
from mmseg_kd.cli import calling, launch
from mmseg_kd.cli import main as entry
from mmseg_kd.cli.commands import COMMANDS
from mmseg_kd.cli.completion import SHELLS, parser_of_all
from mmseg_kd.cli.main import main
from mmseg_kd.config import experiments

EXAMPLE = 'distillation_configs/example_config.py'

# What takes long to import, and so is imported where a command runs.
HEAVY = ('torch', 'mmengine', 'mmseg', 'mmcv', 'numpy', 'matplotlib')


def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program in the root of the project, on the package beside these tests."""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', **variables}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )


def output_of(args: Sequence[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    """What is printed before argparse ends the process."""
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert ended.value.code == code
    out, err = capsys.readouterr()
    assert not (err if code == 0 else out)
    return out or err


def test_the_list_of_commands_imports_nothing_that_is_large() -> None:
    code = (
        'import sys; from mmseg_kd.cli.main import main; main([]); '
        f'print(set({HEAVY}) & set(sys.modules))'
    )
    done = run(sys.executable, '-c', code)
    assert done.stdout == 'set()\n'


# Ends the answer of argparse, and says what is then imported.
ANSWER = f"""
import sys
from mmseg_kd.cli.main import main
for option in ('--help', '--no-such-option'):
    try:
        main([sys.argv[1], option])
    except SystemExit as ended:
        print('code', ended.code)
print([name for name in {HEAVY} if name in sys.modules])
"""


@pytest.mark.parametrize('name', COMMANDS)
def test_help_and_a_wrong_option_import_nothing_that_is_large(
    name: str,
) -> None:
    done = run(sys.executable, '-c', ANSWER, name)
    assert re.findall('^code (.)$', done.stdout, re.M) == ['0', '2'], done.stderr
    assert done.stdout.splitlines()[-1] == '[]'


def test_help_lists_all_commands_in_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    text = output_of(['--help'], capsys)
    for command in COMMANDS.values():
        assert re.search(rf'^  {command.name} +{re.escape(command.summary)}$', text, re.M)
    assert max(map(len, text.splitlines())) <= 80


def test_every_command_of_the_package_is_in_the_table() -> None:
    files = (ROOT / 'mmseg_kd' / 'cli').glob('*.py')
    there = {f'mmseg_kd.cli.{f.stem}' for f in files if 'def _parser(' in f.read_text('utf-8')}
    assert there == {c.module for c in COMMANDS.values()} | {'mmseg_kd.cli.main'}


@pytest.mark.parametrize('name', COMMANDS)
def test_help_of_a_command_calls_it_by_its_name_and_has_an_example_and_exit_codes(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('COLUMNS', '80')
    text = output_of([name, '--help'], capsys)
    assert re.match(rf'usage: mmseg-kd {name} ', text)
    assert re.search(rf'^examples?:\s+mmseg-kd {name}\s', text, re.M)
    assert re.search(r'^exit codes: 0 done, 1 ', text, re.M)
    assert 'tools/' not in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ('tool', 'name'),
    [
        ('train.py', 'train'),
        ('test.py', 'test'),
        ('dataset_converters/camvid.py', 'convert-camvid'),
    ],
)
def test_a_tool_is_a_command(tool: str, name: str) -> None:
    done = run(sys.executable, str(ROOT / 'tools' / tool), '--help')
    assert done.stdout.startswith(f'usage: mmseg-kd {name} ')


def test_examples_can_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('COLUMNS', '60')
    first = 'mmseg-kd tool compare --layers backbone.layer4:backbone.layer4 --out a-b.png'
    second = 'mmseg-kd tool errors'
    parser = ArgumentParser(prog='mmseg-kd tool', epilog=f'examples:\n  {first}\n  {second}\n')
    calling.finish(parser)
    examples = parser.format_help().split('examples:\n')[1].split('\n\n')[0]
    lines = examples.replace('\\\n', '').splitlines()
    assert [line.split() for line in lines] == [first.split(), second.split()]
    assert len(examples.splitlines()) == 3


def test_commands_within_a_command_are_called_by_its_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = output_of(['convert-segdistill', 'config', '--help'], capsys)
    assert text.startswith('usage: mmseg-kd convert-segdistill config ')


@pytest.mark.parametrize(
    ('wrong', 'right'), [('trian', 'train'), ('flop', 'flops'), ('print_config', 'print-config')]
)
def test_a_misspelt_command_gets_the_nearest(
    wrong: str, right: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = output_of([wrong, 'config.py', '--amp'], capsys, code=2)
    assert f'there is no command {wrong!r}; nearest: {right}\n' in text
    # Not the general help, which would look like that of the command.
    assert output_of([wrong, '--help'], capsys, code=2) == text


def test_an_option_before_the_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    text = output_of(['--verbose', 'train', 'config.py'], capsys, code=2)
    assert "expected a command, got '--verbose'\n" in text


def test_without_a_command_there_is_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert '  train ' in capsys.readouterr().err
    assert "expected a command, got '--amp'" in output_of(['--amp'], capsys, code=2)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['--version']) == 0
    assert capsys.readouterr().out == f'{mmseg_kd.__version__}\n'


def test_exit_codes_of_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(['experiments', EXAMPLE]) == 0
    assert '1 experiments' in capsys.readouterr().out
    assert main(['experiments', 'absent']) == 1
    assert capsys.readouterr().err.startswith('error: there is no config file ')
    assert 'mmseg-kd experiments: error: ' in output_of(['experiments', '--al'], capsys, code=2)


def test_ctrl_c_ends_a_command_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments, 'find_configs', interrupt)
    assert output_of(['experiments'], capsys, code=130) == ''
    monkeypatch.setattr(entry, 'import_module', interrupt)
    assert main(['experiments']) == 130
    assert capsys.readouterr() == ('', '')


# What is printed stays in the buffer up to the end, or is written while the command runs.
@pytest.mark.parametrize('lines', [1, 100_000])
def test_a_reader_that_goes_ends_a_command_quietly(lines: int) -> None:
    program = (
        'from runpy import run_path\n'
        f'ending_quietly = run_path({calling.__file__!r})["ending_quietly"]\n'
        'with ending_quietly():\n'
        f'    for line in range({lines}):\n'
        '        print("line", line)\n'
    )
    pipe = '"$@" | true; exit "${PIPESTATUS[0]}"'
    done = run('bash', '-c', pipe, 'bash', sys.executable, '-c', program, PYTHONUNBUFFERED='')
    assert (done.returncode, done.stdout, done.stderr) == (141, '', '')


def test_another_pipe_that_breaks_is_an_error() -> None:
    with pytest.raises(BrokenPipeError), calling.ending_quietly():
        raise BrokenPipeError


def test_the_page_on_the_command_line_has_every_command() -> None:
    page = (ROOT / 'docs' / 'command_line.md').read_text(encoding='utf-8')
    table = page.partition('| command |')[2].partition('\n\n')[0]
    assert re.findall(r'^\| `([\w-]+)` \|', table, re.M) == list(COMMANDS)


# Completion.


@pytest.fixture(scope='module')
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('bash') / 'mmseg-kd.bash'
    path.write_text(shtab.complete(parser_of_all(), 'bash'), encoding='utf-8')
    return path


def test_completion_offers_what_a_command_takes() -> None:
    [commands] = [a.choices for a in parser_of_all()._actions if isinstance(a.choices, dict)]
    assert '--debug' in commands['train']._option_string_actions
    assert '--debug' not in commands['launch']._option_string_actions


# What bash does when Tab is pressed behind the words.
TAB = """
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE}
function=$(complete -p mmseg-kd | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$function" mmseg-kd "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ('words', 'completed'),
    [
        (['tr'], ['train']),
        (['print'], ['print-config']),
        (['convert-'], ['convert-camvid', 'convert-segdistill']),
        (['train', '--res'], ['--resume']),
        (['train', '--launcher', 's'], ['slurm']),
        (['export', 'config.py', 'a.pth', '--to', 'on'], ['onnx']),
        (['convert-segdistill', 'ch'], ['checkpoint']),
        (['train', 'READ'], ['README.md']),
        (['schedule', 'distillation_configs/ex'], ['distillation_configs/example_config.py']),
        (['layers', 'config.py', '--side', 't'], ['teacher']),
    ],
)
def test_bash_completes(script: Path, words: list[str], completed: list[str]) -> None:
    done = run('bash', '--norc', '-c', TAB, 'bash', str(script), 'mmseg-kd', *words)
    assert [word.rstrip() for word in done.stdout.splitlines()] == completed, done.stderr


@pytest.mark.parametrize('shell', SHELLS)
def test_every_shell_has_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['completion', shell]) == 0
    out = capsys.readouterr().out
    assert 'check-data' in out
    assert 'fixed' in out


# Several GPUs.


def options(monkeypatch: pytest.MonkeyPatch, *args: str, **variables: str) -> list[str]:
    for name in ('NNODES', 'NODE_RANK', 'MASTER_ADDR', 'PORT'):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return launch.options_of(*launch.parse(args))


def test_launch_on_one_machine_and_on_many(monkeypatch: pytest.MonkeyPatch) -> None:
    one = options(monkeypatch, '--max-restarts', '3', '8', 'train', 'a.py', '--resume', NNODES='')
    work = ['-m', 'mmseg_kd', 'train', 'a.py', '--resume', '--launcher', 'pytorch']
    assert one == [
        *('--rdzv-backend=c10d', '--rdzv-endpoint=127.0.0.1:29500', '--local-addr=127.0.0.1'),
        *('--nproc_per_node=8', '--max-restarts=3', *work),
    ]
    many = options(monkeypatch, '4', 'test', 'a.py', 'b.pth', NNODES='2', MASTER_ADDR='x', PORT='3')
    assert many[:4] == ['--nnodes=2', '--master_addr=x', '--node_rank=0', '--master_port=3']
    # torchrun's own default, and its variable PET_MAX_RESTARTS, are left their say.
    assert many[4:] == [
        *('--nproc_per_node=4', '-m', 'mmseg_kd', 'test', 'a.py', 'b.pth'),
        *('--launcher', 'pytorch'),
    ]


def test_other_options_of_torchrun_come_after_those_of_launch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs = ['--rdzv-backend=c10d', '--rdzv-endpoint=x:3']
    args = [*theirs, '--max-restarts=2', '4', 'train', 'a.py', '--cfg-options', '--seed=3']
    found = options(monkeypatch, *args, NNODES='2')
    assert found[4:8] == ['--nproc_per_node=4', '--max-restarts=2', *theirs]
    assert found[8:] == [
        *('-m', 'mmseg_kd', 'train', 'a.py', '--cfg-options', '--seed=3'),
        *('--launcher', 'pytorch'),
    ]
    assert '--standalone' in options(monkeypatch, '--standalone', 'auto', 'train', 'a.py')


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['0', 'train', 'a.py'], 'GPUS >= 1'),
        (['two', 'train', 'a.py'], 'GPUS >= 1'),
        (['--max-restarts=-1', '2', 'train', 'a.py'], '--max-restarts >= 0'),
        (['2', 'train'], 'expected the arguments of train'),
        (['--rdzv-conf', '2', 'train', 'a.py'], '--rdzv-conf: expected options of torchrun as'),
    ],
)
def test_what_launch_refuses(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in output_of(['launch', *args], capsys, code=2)


# Says what launch hands to torchrun.
STUB = 'import sys; from unittest import mock; from mmseg_kd.cli import launch, main\n' + (
    'with mock.patch.object(launch, "torchrun", lambda args: print(args)): main.main(sys.argv[3:])'
)


@pytest.mark.parametrize(
    ('script', 'launched'),
    [
        (
            ['train', '--max-restarts=3', '--rdzv-id=7', 'a.py', '2', '--work-dir', 'a b'],
            ['--max-restarts', '3', '--rdzv-id=7', '2', 'train', 'a.py', '--work-dir', 'a b'],
        ),
        (['test', 'a.py', 'b.pth', '2', '--tta'], ['2', 'test', 'a.py', 'b.pth', '--tta']),
    ],
)
def test_the_scripts_are_launch_in_mmsegs_order(
    script: list[str], launched: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / 'python'
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c \'{STUB}\' "$@"\n', encoding='utf-8')
    python.chmod(0o755)
    kind, *args = script
    done = run('bash', str(ROOT / 'tools' / f'dist_{kind}.sh'), *args, PYTHON=str(python), PORT='7')
    assert done.stdout == f'{options(monkeypatch, *launched, PORT="7")}\n', done.stderr


@pytest.mark.parametrize(('kind', 'args'), [('train', ['a.py']), ('test', ['a.py', '2'])])
def test_a_script_without_enough_arguments_shows_its_usage(kind: str, args: list[str]) -> None:
    done = run('bash', str(ROOT / 'tools' / f'dist_{kind}.sh'), *args)
    assert done.returncode == 1
    assert f'bash tools/dist_{kind}.sh ' in done.stderr


def test_the_process_that_watches_the_ranks_is_a_small_one() -> None:
    code = (
        'import sys; from torch.distributed import run; from mmseg_kd.cli.main import main; '
        'run.main = lambda args: None; code = main(["launch", "2", "train", "a.py"]); '
        'print(code, {"mmengine", "mmseg", "mmcv", "matplotlib"} & set(sys.modules))'
    )
    assert run(sys.executable, '-c', code).stdout == '0 set()\n'


@pytest.mark.slow
def test_two_ranks_train_without_a_checkout(tmp_path: Path) -> None:
    teacher = resnet(8)
    checkpoint = save_weights(teacher, tmp_path / 'teacher.pth')
    model = wrapper_config(resnet(4), teacher, checkpoint, term())
    config = write_config(tmp_path, model, write_dataset(tmp_path / 'data'))
    code = 'from mmseg_kd.cli.main import main; raise SystemExit(main())'
    command = [sys.executable, '-c', code, 'launch', '2', 'train', str(config)]
    done = run(*command, PORT=str(free_port()))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'work' / 'iter_4.pth').is_file()
