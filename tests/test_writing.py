"""Files and folders are written whole or not at all, and what is left of killed runs is known and removed."""

import errno
import os

import pytest

from psalm_hf.writing import finish, is_unused, make_folder, remove_unfinished, replaced_files, unfinished_path, write_file, write_json


def fail(file):
    file.write(b"half")
    raise OSError("full")


def test_what_fails_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / "new" / "file"
    with pytest.raises(OSError, match="full"):
        write_file(path, fail)
    assert not list(path.parent.iterdir())
    write_json(path, [1])
    with pytest.raises(OSError, match="full"):
        write_file(path, fail)
    assert path.read_text() == "[1]" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("folder", ["file", "file/inner/folder"])
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path, folder):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=f"^{tmp_path}/file: is a file, and what is written needs a folder of this name; give another"):
        make_folder(tmp_path / folder)
    make_folder(tmp_path / "new/folder")
    make_folder(tmp_path / "new")
    assert (tmp_path / "new/folder").is_dir() and (tmp_path / "file").read_text() == "mine"


def test_a_write_to_a_full_disk_says_which_file(tmp_path):
    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=rf"\[Errno {errno.ENOSPC}\] .*: '{tmp_path}/file'$"):
        write_file(tmp_path / "file", full)
    assert not list(tmp_path.iterdir())


def test_a_file_and_its_name_are_on_the_disk_before_and_after_it_gets_it(tmp_path, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: calls.append(os.readlink(f"/proc/self/fd/{handle}")) or fsync(handle))
    monkeypatch.setattr(os, "replace", lambda source, target: calls.append("replace") or replace(source, target))
    path = tmp_path / "file"
    write_file(path, lambda file: file.write(b"whole"))
    assert calls == [str(unfinished_path(path)), "replace", str(tmp_path)]


def test_files_of_a_folder_are_replaced_and_others_stay(tmp_path):
    folder = tmp_path / "folder"
    for name in ("inner/a", "b"):
        write_file(folder / name, lambda file: file.write(b"old"))
    with replaced_files(folder) as unfinished:
        write_file(unfinished / "inner/a", lambda file: file.write(b"new"))
        write_file(unfinished / "c/d", lambda file: file.write(b"new"))
        assert (folder / "inner/a").read_text() == "old"
    found = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"folder/inner/a": "new", "folder/b": "old", "folder/c/d": "new"} and list(tmp_path.iterdir()) == [folder]
    with pytest.raises(KeyError), replaced_files(folder) as unfinished:
        (unfinished / "b").write_text("never")
        raise KeyError
    assert (folder / "b").read_text() == "old" and list(tmp_path.iterdir()) == [folder]


def test_what_killed_runs_left_is_removed_and_nothing_else(tmp_path):
    for left in (".a.json.12.unfinished", "inner/.b.png.7.unfinished", ".c.7.unfinished/inner/file"):
        write_file(tmp_path / left, lambda file: file.write(b"half"))
    for mine in (".hidden", "inner/a.unfinished", ".a.unfinished"):
        write_file(tmp_path / mine, lambda file: file.write(b"mine"))
    remove_unfinished(tmp_path, "c")
    assert not (tmp_path / ".c.7.unfinished").exists() and (tmp_path / ".a.json.12.unfinished").exists()
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".a.unfinished", ".hidden", "a.unfinished", "inner"]


def test_a_folder_is_unused_until_something_is_finished(tmp_path):
    assert is_unused(tmp_path / "absent") and is_unused(tmp_path)
    (tmp_path / "_psalm").mkdir()
    unfinished = unfinished_path(tmp_path / "run.json")
    unfinished.touch()
    assert is_unused(tmp_path) and not is_unused(unfinished)
    finish(unfinished, tmp_path / "run.json")
    assert not is_unused(tmp_path)
