"""Pickles of refs: plain content comes out, code does not run."""

import collections
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
