"""Files that are whole at any moment: kills at every step of a write, and a full disk."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmseg_kd.checkpoints.durable import DurableBackend, write_durably

OLD, NEW = b'old' * 1000, b'new' * 2000


def in_child(work: Callable[[], Any]) -> int:
    """Do `work` in a process of its own; returns what `os.waitpid` says of its end."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(child, 0)[1]


class Killed:
    """Kills the process at the nth step; each call has one before and one after it.

    Args:
        step: From 0.
    """

    def __init__(self, step: int) -> None:
        self.left = step

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self._pass()
            result = function(*args)
            self._pass()
            return result

        return call

    def _pass(self) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1


@pytest.mark.parametrize('step', range(6))
def test_a_kill_at_any_step_leaves_the_old_file_or_the_new(tmp_path: Path, step: int) -> None:
    path = tmp_path / 'file'
    write_durably(path, OLD)

    def work() -> None:
        killed = Killed(step)
        for name in ('fsync', 'replace'):
            setattr(os, name, killed.around(getattr(os, name)))
        write_durably(path, NEW[:3000], NEW[3000:])

    status = in_child(work)
    assert os.WIFSIGNALED(status)
    # fsync of the file, the new name, fsync of the folder: before and after each.
    assert path.read_bytes() == (OLD if step < 3 else NEW)
    assert (tmp_path / 'file.tmp').exists() == (step < 3)
    write_durably(path, NEW)
    assert [one.name for one in tmp_path.iterdir()] == ['file']
    assert path.read_bytes() == NEW


def test_the_content_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    monkeypatch.setattr(
        os, 'fsync', lambda handle: steps.append(os.readlink(f'/proc/self/fd/{handle}'))
    )
    replace = os.replace
    monkeypatch.setattr(os, 'replace', lambda *names: (steps.append('replace'), replace(*names)))
    write_durably(tmp_path / 'file', NEW)
    assert steps == [str(tmp_path / 'file.tmp'), 'replace', str(tmp_path)]


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / 'file'
    write_durably(path, OLD)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
        try:
            write_durably(path, NEW)
        except OSError as error:
            os._exit(3 if error.errno == errno.EFBIG else 4)

    assert os.waitstatus_to_exitcode(in_child(work)) == 3
    assert path.read_bytes() == OLD
    assert [one.name for one in tmp_path.iterdir()] == ['file']


@pytest.mark.parametrize('number', [errno.EINVAL, errno.EIO])
def test_a_folder_that_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fsync = os.fsync

    def refuse(handle: int) -> None:
        if os.path.isdir(f'/proc/self/fd/{handle}'):
            raise OSError(number, 'folder')
        fsync(handle)

    monkeypatch.setattr(os, 'fsync', refuse)
    if number == errno.EINVAL:
        write_durably(tmp_path / 'file', NEW)
    else:
        with pytest.raises(OSError, match='folder'):
            write_durably(tmp_path / 'file', NEW)
    assert (tmp_path / 'file').read_bytes() == NEW


def test_removals_wait_for_the_rest(tmp_path: Path) -> None:
    backend = DurableBackend()
    for name in 'abc':
        backend.put(OLD, tmp_path / 'new' / name)
    with backend.removing_last() as waiting:
        backend.remove(tmp_path / 'new' / 'a')
        assert waiting == {str(tmp_path / 'new' / 'a')}
        assert (tmp_path / 'new' / 'a').exists()
    assert not (tmp_path / 'new' / 'a').exists()
    with pytest.raises(OSError), backend.removing_last():
        backend.remove(tmp_path / 'new' / 'b')
        raise OSError
    assert (tmp_path / 'new' / 'b').exists()
    backend.remove(tmp_path / 'new' / 'c')
    assert not (tmp_path / 'new' / 'c').exists()
