"""Faults while a process writes: it counts what happens to the files below a folder, and at one event it is killed or its disk is full.

An event is a file that is opened to be written, a piece that is written, a file or folder that is made, renamed, cut or removed, and what
is brought to the disk. A kill while a piece is written leaves half of it. It needs no root: the functions of Python are replaced, in a
process of its own (they are not put back). What C++ and Rust write by themselves (weights) is brought back to Python.
"""

import builtins
import errno
import io
import os
import signal
import sys

KILL, FULL = "kill", "full"


class Faults:
    """Events below a folder, by name and path.

    Args:
        root: folder.
        at: number of the event, from 0, at which something happens; None = never.
        kind: KILL, before the event takes place; or FULL, from that event on.
    """

    def __init__(self, root, at=None, kind=KILL):
        self.root, self.at, self.kind = os.path.realpath(root) + os.sep, at, kind
        self.events = []

    def path(self, path, dir_fd=None):
        """Path below the root, or None."""
        if isinstance(path, int):
            dir_fd, path = path, ""
        base = os.getcwd() if dir_fd is None else os.readlink(f"/proc/self/fd/{dir_fd}")
        full = os.path.join(base, os.fsdecode(path)).rstrip(os.sep)
        full = os.path.join(os.path.realpath(os.path.dirname(full)), os.path.basename(full))
        return full[len(self.root) :] if full.startswith(self.root) else None

    def meet(self, name, path, half=None):
        """Notes an event; is killed or raises, if it is its time. `half` does the half of it."""
        number = len(self.events)
        self.events.append((name, path))
        if self.at is None or number < self.at or (self.kind == KILL and number > self.at):
            return
        if self.kind == FULL and name in ("rename", "remove", "cut"):  # which need no room
            return
        if half is not None and number == self.at:
            half()
        if self.kind == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def install(self):
        """Replaces what writes, in this process, for good."""
        self._replace_open()
        for function, name in (("mkdir", "make"), ("unlink", "remove"), ("remove", "remove"), ("rmdir", "remove"), ("truncate", "cut")):
            self._replace(function, name)
        for function in ("rename", "replace"):
            self._replace(function, "rename", is_pair=True)
        for function, name in (("fsync", "sync"), ("ftruncate", "cut"), ("pwrite", "write")):
            self._replace(function, name)
        os_open = os.open

        def opened(path, flags, mode=0o777, *, dir_fd=None):
            where = self.path(path, dir_fd)
            if where is not None and flags & (os.O_CREAT | os.O_TRUNC):
                self.meet("open", where)
            return os_open(path, flags, mode, dir_fd=dir_fd)

        os.open = opened
        if "torch" in sys.modules:
            self._replace_native()

    def _replace(self, function, name, is_pair=False):
        real = getattr(os, function)

        def replaced(path, *others, **options):
            where = self.path(others[0] if is_pair else path, options.get("dst_dir_fd" if is_pair else "dir_fd"))
            if where is not None:
                self.meet(name, where)
            return real(path, *others, **options)

        setattr(os, function, replaced)

    def _replace_open(self):
        real, faults = io.open, self

        class File(io.FileIO):
            def write(self, data):
                where, data = faults.path(self.fileno()), memoryview(data).cast("B")
                faults.meet("write", where, lambda: super(File, self).write(data[: len(data) // 2]))
                return super().write(data)

            def truncate(self, size=None):
                faults.meet("cut", faults.path(self.fileno()))
                return super().truncate(size)

        def opened(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
            where = None if isinstance(file, int) and not closefd else faults.path(file)
            if where is None or not set(mode) & set("wax+"):
                return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
            if set(mode) & set("wax"):
                faults.meet("open", where)
            raw = File(file, mode.replace("b", "").replace("t", ""), closefd, opener)
            if buffering == 0:
                return raw
            size = buffering if buffering > 1 else 8192
            buffered = io.BufferedRandom(raw, size) if "+" in mode else io.BufferedWriter(raw, size)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

        builtins.open = io.open = opened

    def _replace_native(self):
        import safetensors.torch
        import torch

        save, serialize = torch.save, safetensors.torch.serialize

        def saved(content, file, *others, **options):
            if not isinstance(file, str | os.PathLike):
                return save(content, file, *others, **options)
            buffer = io.BytesIO()
            save(content, buffer, *others, **options)
            with open(file, "wb") as target:
                target.write(buffer.getvalue())

        def serialized(tensors, filename, metadata=None):
            with open(filename, "wb") as target:
                target.write(serialize(tensors, metadata=metadata))

        torch.save, safetensors.torch.serialize_file = saved, serialized


def child(work, errors):
    """Exit status of a function in a process of its own (negative: the signal that ended it), whose errors go to a file."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            handle = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            status = work() or 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
