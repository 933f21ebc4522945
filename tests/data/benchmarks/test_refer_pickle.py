"""Pickles of refs: plain content comes out, code does not run."""

import collections
import os
import pickle

import pytest

from psalm_hf.data.benchmarks.refer_pickle import read_refer_pickle

REFS = [{"ref_id": 3, "ann_id": [1, -1], "sentences": [{"sent": "the cup's handle", "tokens": ["cup"], "x": (1, 2.5, True, None)}]}]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "refs(unc).p"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_containers_text_and_numbers_are_read_in_every_protocol(protocol, file):
    file.write_bytes(pickle.dumps(REFS, protocol))
    assert read_refer_pickle(file) == REFS


def test_strings_of_python_2_become_text(file):
    file.write_bytes(b"(lp0\n(dp1\nS'sent'\np2\nS'caf\\xe9'\np3\nsS'id'\np4\nL7L\nsa.")
    assert read_refer_pickle(file) == [{"sent": "caf\xe9", "id": 7}]


class Attack:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def test_code_is_refused_and_does_not_run(file, tmp_path):
    file.write_bytes(pickle.dumps([{"sent": Attack(tmp_path / "ran")}], 2))
    with pytest.raises(ValueError, match=r"refs\(unc\).p: the pickle asks for (io|_io|builtins)\.open, .*download it again"):
        read_refer_pickle(file)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [[collections.OrderedDict()], [{"x": 1 + 2j}], [{"x": {1}}]])
def test_every_other_class_is_refused(content, file):
    file.write_bytes(pickle.dumps(content, 2))
    with pytest.raises(ValueError, match="the pickle asks for .*, but a list of refs needs no class"):
        read_refer_pickle(file)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", pickle.dumps(REFS, 2)[:-20], b"garbage", pickle.dumps(REFS, 4)[:9]])
def test_what_is_no_pickle_is_refused(content, file):
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"refs\(unc\).p is not a readable pickle .*download it again"):
        read_refer_pickle(file)


@pytest.mark.parametrize("content", [{"refs": []}, [1], None])
def test_what_is_no_list_of_refs_is_refused(content, file):
    file.write_bytes(pickle.dumps(content, 2))
    with pytest.raises(ValueError, match=r"refs\(unc\).p holds no list of refs"):
        read_refer_pickle(file)


def test_text_of_python_2_that_is_no_ascii_may_stand_anywhere(file):
    file.write_bytes(b"(lp0\n(dp1\nS'caf\\xe9'\np2\nS'caf\xe9'\np3\nsS'n'\np4\nS'\xfc'\np5\nsa.")
    assert read_refer_pickle(file) == [{"caf\xe9": "caf\xe9", "n": "\xfc"}]


def nested(depth):
    """List whose every element is the list of the level below, named nine times: 9 ** depth values in 20 bytes a level."""
    levels = (b"(" + (b"h" + bytes([level])) * 9 + b"lq" + bytes([level + 1]) for level in range(depth))
    return b"(lq\0" + b"".join(levels) + b"."


BOMBS = {
    "lists that name each other": (nested(12), "its parts are repeated in each other, so that it grows"),
    "a list of itself": (b"]q\0h\0a.", "deeper in each other than 20"),
    "a list of itself, often": (b"]q\0(" + b"h\0" * 100 + b"e.", "its parts are repeated"),
    "a long text, often": (b"]q\0(X\x00\x04\0\0" + b"a" * 1024 + b"q\x01" + b"h\x01" * 1000 + b"e.", "its parts are repeated"),
    "a long number, often": (b"]q\0(\x8b\x00\x04\0\0" + b"\x01" * 1024 + b"q\x01" + b"h\x01" * 1000 + b"e.", "its parts are repeated"),
    "keys of a dict": (b"](}X\x00\x04\0\0" + b"a" * 1024 + b"q\x01Ks" + b"}h\x01Ks" * 1000 + b"e.", "its parts are repeated"),
    "depth": (b"]" * 100_000 + b"a" * 99_999 + b".", "deeper in each other than 20"),
    "a number to remember under": (b"]r\xff\xff\xff\x7f.", "ask for memory for more than 7 values"),
    "the same in letters": (b"]p99999999999\n.", "ask for memory"),
    "behind a text of Python 2": (b"S'\xe9'\n]r\xff\xff\xff\x7f.", "ask for memory"),
    "a length": (b"\x8e" + b"\xff" * 7 + b"\x00.", "not a readable pickle"),
    "a length of a bytearray": (b"\x96" + b"\xff" * 5 + b"\x00\x00\x00.", "not a readable pickle"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_small_pickles_that_grow_are_refused(name, file):
    content, reason = BOMBS[name]
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"refs\(unc\).p.*{reason}.*download it again") as caught:
        read_refer_pickle(file)
    assert len(str(caught.value)) < 1000


def test_a_pipe_is_no_pickle(tmp_path):
    os.mkfifo(tmp_path / "refs(unc).p")
    with pytest.raises(OSError, match="is a pipe"):
        read_refer_pickle(tmp_path / "refs(unc).p")
