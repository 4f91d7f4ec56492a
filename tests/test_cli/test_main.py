"""The one entry: mmseg-kd COMMAND."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest
import shtab
from builders import ROOT, resnet, save_weights, term, wrapper_config, write_config, write_dataset
from training_runs import free_port

import mmseg_kd
from mmseg_kd.cli import calling, launch, list_experiments
from mmseg_kd.cli import main as entry
from mmseg_kd.cli.commands import COMMANDS
from mmseg_kd.cli.completion import SHELLS, parser_of_all
from mmseg_kd.cli.main import main

EXAMPLE = 'distillation_configs/example_config.py'

# Those that the folder of tools has, too.
TOOLS = [name for name in COMMANDS if name not in ('launch', 'completion')]


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
        'print({"torch", "mmseg", "mmengine", "numpy"} & set(sys.modules))'
    )
    done = run(sys.executable, '-c', code)
    assert done.stdout == 'set()\n'


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


@pytest.mark.parametrize('name', TOOLS)
def test_help_of_a_tool_calls_it_by_its_file(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        import_module(COMMANDS[name].module).main(['--help'])
    text = capsys.readouterr().out
    found = re.search(r'^examples?:\s+\w+ (tools/\S+)', text, re.M)
    assert found
    tool = ROOT / found[1]
    assert tool.is_file()
    assert text.startswith(f'usage: {tool.name} ')
    assert re.search(r'^exit codes: 0 done, 1 ', text, re.M)


def test_examples_can_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('COLUMNS', '60')
    first = 'python tools/tool.py compare --layers backbone.layer4:backbone.layer4 --out a-b.png'
    second = 'python tools/tool.py errors'
    parser = ArgumentParser(prog='tool.py', epilog=f'examples:\n  {first}\n  {second}\n')
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

    monkeypatch.setattr(list_experiments, 'find_configs', interrupt)
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


def test_the_page_on_the_command_line_has_every_command_with_its_file() -> None:
    page = (ROOT / 'docs' / 'command_line.md').read_text(encoding='utf-8')
    files = dict(re.findall(r'^\| `([\w-]+)` \| (.*?) \|', page, re.M))
    assert list(files) == list(COMMANDS)
    named = [name for cell in files.values() for name in re.findall(r'`(.+?)`', cell)]
    assert [name for name in named if not (ROOT / 'tools' / name).is_file()] == []


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
    return launch.options_of(launch._parser().parse_args(args))


def test_launch_on_one_machine_and_on_many(monkeypatch: pytest.MonkeyPatch) -> None:
    one = options(monkeypatch, '--max-restarts', '3', '8', 'train', 'a.py', '--resume')
    work = ['-m', 'mmseg_kd', 'train', 'a.py', '--resume', '--launcher', 'pytorch']
    assert one == [
        *('--rdzv-backend=c10d', '--rdzv-endpoint=127.0.0.1:29500', '--local-addr=127.0.0.1'),
        *('--nproc_per_node=8', '--max-restarts=3', *work),
    ]
    many = options(monkeypatch, '4', 'test', 'a.py', 'b.pth', NNODES='2', MASTER_ADDR='x', PORT='3')
    assert many[:4] == ['--nnodes=2', '--master_addr=x', '--node_rank=0', '--master_port=3']
    assert many[6:] == ['-m', 'mmseg_kd', 'test', 'a.py', 'b.pth', '--launcher', 'pytorch']


def test_launch_refuses_what_is_no_number_of_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    assert 'GPUS >= 1' in output_of(['launch', '0', 'train', 'a.py'], capsys, code=2)


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
