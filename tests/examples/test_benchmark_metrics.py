"""The benchmark of the metrics on small pictures. What it measures is no test; that both ways agree is."""

import numpy as np
import pytest

from examples import benchmark_metrics
from examples.benchmark_metrics import Case, cases, compare, draw_pair, main


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    monkeypatch.setattr(benchmark_metrics, "SIZES", ((60, 90), (70, 50)))


@pytest.mark.parametrize("seed", range(3))
def test_both_ways_give_the_same_numbers(seed):
    rows = cases(images=2, seed=seed)
    assert {case.name for case in rows} == {"PQ", "mIoU", "J&F", "F alone"} and len(rows) == 8
    for case in rows:
        assert min(compare(case, repeats=1)) > 0
        assert any(0 < value < 100 for value in case.reference().values())


def test_the_table_has_a_line_for_every_measure_and_size(capsys):
    main(["--images", "1", "--repeats", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 8
    assert all(line.endswith("x") and " x " in line for line in lines[2:])


def test_numbers_that_differ_stop_the_benchmark():
    case = Case("PQ", (60, 90), lambda: {"PQ": 50.0}, lambda: {"PQ": 50.1})
    with pytest.raises(RuntimeError, match="PQ, 60 x 90: PQ is 50.1, but the straightforward way has 50.0"):
        compare(case, repeats=1)


def test_pictures_are_blobs_and_come_again_with_the_seed():
    target, predicted = draw_pair(np.random.default_rng(0), (60, 90), 5)
    again, _ = draw_pair(np.random.default_rng(0), (60, 90), 5)
    assert np.array_equal(target, again) and not np.array_equal(target, predicted)
    assert np.mean(target[:, 1:] == target[:, :-1]) > 0.9


@pytest.mark.parametrize("name", ["--images", "--repeats"])
def test_numbers_below_1_are_refused(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "0"])
    assert f"{name} must be at least 1, got 0" in capsys.readouterr().err
