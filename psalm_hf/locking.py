"""Lock of a folder: one run at a time writes into it, and a second one is refused."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .writing import LOCKS, make_folder

logger = logging.getLogger(__name__)

_held: dict[Path, tuple[int, int]] = {}  # lock file -> its handle and the thread that has it


def _close_handles() -> None:
    for handle, _ in _held.values():
        os.close(handle)
    _held.clear()


# A process that reads data may outlive the run that made it, and would keep the lock.
os.register_at_fork(after_in_child=_close_handles)


@contextmanager
def only_run(folder: Path, name: str = "") -> Iterator[None]:
    """Context in which no other process writes into a folder, if it asks here first. A thread may enter it again.

    The lock ends with the process, also if that is killed. On disks without locks (some network disks) only a living process of the
    same machine is noticed, with a warning.

    Args:
        folder: is made, and removed again at the end if nothing was written into it.
        name: of the one thing in the folder that is meant; default the whole folder.

    Raises:
        ValueError: another run has it; the message says which. The folder is a file, or lies in one.
    """
    file = folder.resolve() / LOCKS / f"{name or 'folder'}.lock"
    if _held.get(file, (None, None))[1] == threading.get_ident():
        yield
        return
    made = [path for path in (file.parent, *file.parent.parents) if not path.exists()]
    try:
        _held[file] = _lock(file, folder / name), threading.get_ident()
        try:
            yield
        finally:
            file.unlink(missing_ok=True)
            os.close(_held.pop(file)[0])
    finally:
        for path in made or [file.parent]:  # the folder of locks was there if a run was killed
            try:
                path.rmdir()
            except OSError:  # it holds something
                break


def _lock(file: Path, meant: Path) -> int:
    """Handle of the file, which is locked and holds the id and the machine of this process."""
    while True:
        make_folder(file.parent)
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # its folder was removed by a run that has just ended
            continue
        try:
            _try(handle, meant)
            if _is_that(file, handle):
                _sign(handle, file)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its holder has removed the file in the meantime


def _is_that(file: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def _sign(handle: int, file: Path) -> None:
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()} {socket.gethostname()}".encode(), 0)
    except OSError:  # the disk is full
        file.unlink()
        raise


def _try(handle: int, meant: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except OSError as error:
        failure = error
    process, _, machine = os.pread(handle, 300, 0).decode(errors="replace").partition(" ")
    if isinstance(failure, BlockingIOError) or (machine == socket.gethostname() and _is_other_process(process)):
        who = f"process {process} on {machine}" if machine else "it has just begun"
        raise ValueError(f"{meant}: another run is writing there ({who}); wait until it has ended, or give another folder")
    logger.warning("%s: this disk has no locks (%s); see to it that no second run writes there", meant, failure.strerror)


def _is_other_process(number: str) -> bool:
    """True if the number is that of a process that lives, and is not this one."""
    if not number.isdigit() or int(number) == os.getpid():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True
