"""One run at a time writes into a folder, and a lock ends with its process."""

import errno
import fcntl
import os
import signal
import threading

import pytest

from psalm_hf.locking import only_run


def hold(folder, seconds=60):
    """Process that holds the lock of a folder; returns when it has it."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        with only_run(folder):
            os.write(writing, b"!")
            signal.alarm(seconds)
            signal.pause()
        os._exit(0)
    os.read(reading, 1)
    return process


def end(process):
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def test_a_second_process_is_refused_with_the_first_by_name_until_that_is_killed(tmp_path):
    first = hold(tmp_path)
    with pytest.raises(ValueError, match=rf"{tmp_path}: another run is writing there \(process {first} on .+\); wait"), only_run(tmp_path):
        pass
    end(first)
    with only_run(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_other_names_and_other_folders_are_free(tmp_path):
    with only_run(tmp_path, "a"), only_run(tmp_path, "b"), only_run(tmp_path), only_run(tmp_path / "inner"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_that_was_made_and_is_empty_goes_again(tmp_path):
    with only_run(tmp_path / "new/folder"):
        assert (tmp_path / "new/folder").is_dir()
    assert not list(tmp_path.iterdir())
    with only_run(tmp_path / "new/folder"):
        (tmp_path / "new/folder/file").touch()
    assert [path.name for path in (tmp_path / "new/folder").iterdir()] == ["file"]


def test_a_thread_enters_again_and_another_is_refused(tmp_path):
    refused = []

    def enter():
        try:
            with only_run(tmp_path):
                pass
        except ValueError as error:
            refused.append(str(error))

    with only_run(tmp_path):
        with only_run(tmp_path):
            pass
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        with pytest.raises(KeyError), only_run(tmp_path):
            raise KeyError
    assert len(refused) == 1
    enter()
    assert len(refused) == 1


def test_a_process_that_outlives_the_run_does_not_keep_the_lock(tmp_path):
    reading, writing = os.pipe()
    first = os.fork()
    if first == 0:
        with only_run(tmp_path):
            if os.fork() == 0:  # as a worker that reads data
                os.write(writing, b"!")
                signal.alarm(60)
                signal.pause()
            signal.pause()
    os.read(reading, 1)
    end(first)
    with only_run(tmp_path):
        pass


def test_without_locks_of_the_disk_a_living_process_is_noticed(tmp_path, monkeypatch, caplog):
    first = hold(tmp_path)

    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(ValueError, match=f"process {first} on"), only_run(tmp_path):
        pass
    end(first)
    with only_run(tmp_path):
        pass
    assert "this disk has no locks (No locks available); see to it that no second run writes there" in caplog.text
