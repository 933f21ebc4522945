"""Predictions on disk, so that a killed evaluation goes on where it was, and processes need not speak to each other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..writing import named_errors


class Records:
    """Predictions for the rows of a dataset: a line of JSON each, in one file per process.

    Args:
        folder: of all processes' files; is made if it does not exist.
        process: of the file that `append` writes to.

    A process may be killed while it writes: its last line is then not whole, and does not count. Call `mend` before anything is read. Two
    processes may have predicted the same row; equal predictions count once.
    """

    def __init__(self, folder: Path, process: int = 0):
        self.folder = folder
        self.path = folder / f"{process:03}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)

    def mend(self) -> None:
        """Cuts off last lines that are not whole. For one process, while none writes.

        Raises:
            ValueError: another line is damaged; the message says which.
        """
        for path in self._paths():
            whole = 0
            with path.open("r+b") as file:
                for number, line in enumerate(file, 1):
                    if not line.endswith(b"\n"):
                        break
                    if not _is_record(line):
                        raise ValueError(_damage(path, number, line))
                    whole += len(line)
                file.truncate(whole)

    def append(self, predictions: Iterable[tuple[int, Any]]) -> None:
        """Writes predictions, by row; they are on the disk when this returns."""
        text = "".join(json.dumps({"row": row, "answer": prediction}, separators=(",", ":")) + "\n" for row, prediction in predictions)
        with named_errors(self.path), self.path.open("a", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def places(self) -> dict[int, tuple[Path, int]]:
        """Row -> the file and the byte where its line begins.

        Raises:
            ValueError: a row was predicted twice, and otherwise; a line is none of this class.
        """
        places: dict[int, tuple[Path, int]] = {}
        for path in self._paths():
            position = 0
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    row = _row_of(line, path, number)
                    if row not in places:
                        places[row] = path, position
                    elif line != _line_at(*places[row]):
                        raise ValueError(
                            f"{path}, line {number}: row {row} is also in {places[row][0].name}; start again in another folder, or remove "
                            "one of the two lines, which differ"
                        )
                    position += len(line)
        return places

    def predictions(self) -> Mapping[int, Any]:
        """Row -> its prediction, read when it is asked for."""
        return _StoredPredictions(self.places())

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("*.jsonl"))


class _StoredPredictions(Mapping[int, Any]):
    def __init__(self, places: Mapping[int, tuple[Path, int]]):
        self._places = places

    def __getitem__(self, row: int) -> Any:
        path, position = self._places[row]
        line = _line_at(path, position)
        try:
            return json.loads(line)["answer"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise ValueError(f"{path}, row {row}: {line!r:.60} is damaged ({error}); start again in another folder") from error

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class PredictionsInMemory(dict[int, Any]):
    """Predictions that nobody goes on from, used as `Records` are."""

    def append(self, predictions: Iterable[tuple[int, Any]]) -> None:
        """Adds predictions, by row."""
        self.update(list(predictions))

    def predictions(self) -> Mapping[int, Any]:
        """Row -> its prediction."""
        return self


def _line_at(path: Path, position: int) -> bytes:
    with path.open("rb") as file:
        file.seek(position)
        return file.readline()


def _is_record(line: bytes) -> bool:
    """True for a whole line; its row alone can be read from the first bytes."""
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return line.startswith(b'{"row":') and record.keys() == {"row", "answer"} and type(record["row"]) is int


def _row_of(line: bytes, path: Path, number: int) -> int:
    # The row comes first, and predictions are long: no need to parse them.
    head = line[: line.find(b",")].removeprefix(b'{"row":')
    if not head.isdigit() or len(head) > 18 or not line.endswith(b"}\n"):
        raise ValueError(_damage(path, number, line))
    return int(head)


def _damage(path: Path, number: int, line: bytes) -> str:
    return (
        f"{path}, line {number}: {line!r:.60} is no prediction that an evaluation has written; remove the line, and its row is predicted "
        "again, or start again in another folder"
    )
