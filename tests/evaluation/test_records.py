"""Answers on disk: what was written whole is there, what was not is done again, nothing counts twice."""

import errno
import os

import pytest

from psalm_hf.evaluation.records import Records
from psalm_hf.writing import write_json


def test_answers_of_several_processes_are_found_by_row(tmp_path):
    first, second = Records(tmp_path), Records(tmp_path, process=1)
    first.append([(0, {"text": "a, b"}), (2, {"text": "\u00e9\n"})])
    second.append([(1, {"text": "c"})])
    places = first.places()
    assert {row: found["text"] for row, found in sorted(first.predictions().items())} == {0: "a, b", 1: "c", 2: "\u00e9\n"}
    assert second.places() == places


def test_a_line_that_is_not_whole_is_cut_off_and_can_be_written_again(tmp_path):
    records = Records(tmp_path)
    records.append([(0, "kept"), (1, "lost")])
    records.path.write_bytes(records.path.read_bytes()[:-4])
    again = Records(tmp_path)
    again.mend()
    assert set(again.places()) == {0}
    again.append([(1, "found")])
    assert list(again.predictions().values()) == ["kept", "found"]


def test_a_first_line_that_is_not_whole_leaves_nothing(tmp_path):
    records = Records(tmp_path)
    records.path.write_text('{"row":0,"ans')
    records.mend()
    assert records.places() == {} and records.path.read_bytes() == b""


def test_a_row_that_was_answered_twice_is_refused(tmp_path):
    Records(tmp_path).append([(3, "once")])
    Records(tmp_path, process=1).append([(3, "twice")])
    with pytest.raises(ValueError, match="row 3 is also in 000.jsonl; start again in another folder"):
        Records(tmp_path).places()


def test_equal_answers_of_two_processes_count_once(tmp_path):
    for process in (0, 1):
        Records(tmp_path, process).append([(3, "same"), (4 + process, "own")])
    found = Records(tmp_path).predictions()
    assert dict(found) == {3: "same", 4: "own", 5: "own"}


@pytest.mark.parametrize("damaged", ['{"row":1,"answer":{"sc', '{"row":1,"answer":2}}', '["row"]', "\0\0\0", "", '{"row":"1","answer":2}'])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, damaged):
    records = Records(tmp_path)
    records.append([(0, "kept")])
    with records.path.open("a") as file:
        file.write(damaged + "\n")
    records.append([(2, "kept")])
    before = records.path.read_bytes()
    with pytest.raises(ValueError, match="000.jsonl, line 2: .+ is no prediction that an evaluation has written; remove the line"):
        records.mend()
    assert records.path.read_bytes() == before


def test_what_is_no_answer_is_refused(tmp_path):
    (tmp_path / "000.jsonl").write_text('{"other": 1}\n')
    with pytest.raises(ValueError, match="is no prediction that an evaluation has written"):
        Records(tmp_path).places()


def test_a_line_that_was_damaged_is_named_by_file_and_row(tmp_path):
    records = Records(tmp_path)
    records.append([(3, "found"), (4, "found")])
    records.path.write_bytes(records.path.read_bytes().replace(b'"found"', b'"fo\xffnd', 1))
    predictions = records.predictions()
    assert predictions[4] == "found"
    with pytest.raises(ValueError, match="000.jsonl, row 3: .* is damaged"):
        predictions[3]


def test_a_disk_that_is_full_is_told_with_the_file(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    records = Records(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="000.jsonl"):
        records.append([(0, "a")])


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"percent": 1}, indent=1)
    with pytest.raises(TypeError):
        write_json(path, {"percent": object()})
    assert path.read_text() == '{\n "percent": 1\n}' and list(tmp_path.iterdir()) == [path]
