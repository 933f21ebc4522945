"""The simulated user on masks that can be checked on paper, and the table of the benchmark on one image."""

import numpy as np
import pytest

from examples.benchmark_clicks import RULES, main, next_click

NOTHING = np.zeros((9, 9), dtype=bool)


def square(top, left, side):
    mask = NOTHING.copy()
    mask[top : top + side, left : left + side] = True
    return mask


@pytest.mark.parametrize(
    ("prediction", "target", "clicked", "expected"),
    [
        (NOTHING, square(2, 3, 5), NOTHING, (4, 5, 1)),  # the centre of the object
        (square(2, 3, 5), NOTHING, NOTHING, (4, 5, 0)),
        (NOTHING, square(0, 0, 5), NOTHING, (2, 2, 1)),  # the border of the image is one of the object
        (square(0, 0, 3), square(4, 4, 5), NOTHING, (6, 6, 1)),  # more is missing than too much
        (square(0, 0, 5), square(6, 6, 3), NOTHING, (2, 2, 0)),
        (square(2, 3, 5), square(2, 3, 5), NOTHING, None),
        (square(4, 4, 1), NOTHING, square(4, 4, 1), None),  # what was clicked is not clicked again
    ],
)
def test_the_click_is_the_centre_of_the_largest_error(prediction, target, clicked, expected):
    assert next_click(prediction, target, clicked) == expected


def test_the_table_has_a_line_for_every_rule(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    main(["--checkpoint", str(tiny_checkpoint), "--images", "1", "--clicks", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("shapes test, ") and lines[1].split()[-3:] == ["NoC@85", "not", "reached"]
    table = {line[:18].strip(): [float(number) for number in line[18:].rstrip(" %").split()] for line in lines[2:]}
    assert tuple(table) == RULES
    assert all(len(numbers) == 4 and 0 <= min(numbers) and max(numbers) <= 100 for numbers in table.values())
    assert table["one click"][0] == table["one click"][1] == table["positive points"][0]
