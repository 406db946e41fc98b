"""One process at a time in a folder."""

import errno
import os
from types import SimpleNamespace

import pytest
from small import in_a_fork

from sprites_lab import LabError, locks


def test_a_folder_is_held_by_one_at_a_time(tmp_path):
    with locks.alone_in(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
        with pytest.raises(LabError, match=f"{tmp_path} is in use by a run of this very process.*--out"), locks.alone_in(tmp_path):
            pass
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError), locks.alone_in(tmp_path):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_many_processes_that_come_and_go_are_never_two_in_the_folder(tmp_path):
    def come_and_go():
        entered = 0
        while entered < 100:
            try:
                with locks.alone_in(tmp_path):
                    handle = os.open(tmp_path / "inside", os.O_CREAT | os.O_EXCL)  # fails if another one is inside
                    os.unlink(tmp_path / "inside")
                    os.close(handle)
                    entered += 1
            except LabError as error:
                assert "in use by" in str(error)

    children = []
    for _ in range(3):
        if (pid := os.fork()) == 0:
            os._exit(in_a_fork(come_and_go))
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("without", ["the system", "the disk"])
def test_without_locks_nobody_is_kept_out(tmp_path, monkeypatch, without):
    def none(*given):
        raise OSError(errno.ENOLCK, "No locks available")

    fcntl = None if without == "the system" else SimpleNamespace(flock=none, LOCK_EX=2, LOCK_NB=4)
    monkeypatch.setattr(locks, "fcntl", fcntl)
    with locks.alone_in(tmp_path), locks.alone_in(tmp_path):
        assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_refused_with_a_sentence(tmp_path):
    with pytest.raises(LabError, match="cannot write .*No such file.*--out"), locks.alone_in(tmp_path / "nowhere"):
        pass
