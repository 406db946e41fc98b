"""One process at a time in a folder: two runs that save into one folder would undo each other's work."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sprites_lab.checkpoints import remove
from sprites_lab.errors import LabError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes that ask out of a folder, as long as this lasts; LabError if one is there already.

    The system itself lets go of the folder when a process is killed. Where it or the disk has no such locks, nobody is kept out.
    """
    path = folder / ".lock"
    handle = lock(path) if fcntl else None
    try:
        yield
    finally:
        if handle is not None:
            remove(path)  # before it is let go: nobody may take it and then lose it
            os.close(handle)


def lock(path: Path) -> int | None:
    """The handle of a file that is now ours alone, None on a disk without locks; LabError if it is another's."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise LabError(f"cannot write {path}: {error.strerror or error}; choose another place with --out, or make room") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            other = os.read(handle, 20).decode(errors="replace") or "(unknown)"
            os.close(handle)
            raise LabError(f"{path.parent} is in use by {holder(other)}, or choose another folder with --out") from error
        except OSError:
            os.close(handle)
            return remove(path)
        if os.fstat(handle).st_nlink:
            os.truncate(handle, 0)
            os.write(handle, str(os.getpid()).encode())
            return handle
        os.close(handle)  # whoever held it has ended and removed it in this moment: try again with a new file


def holder(process: str) -> str:
    """Who has the lock, and what to do about it."""
    if process == str(os.getpid()):
        return "a run of this very process that is still open: close it, in a notebook by Kernel > Restart"
    return f"process {process}: wait until it ends"
