"""The tables of the benchmarks of zoom and tiles, on one scene each."""

import pytest

from examples import benchmark_tiles, benchmark_zoom


def test_zoom_has_a_line_for_every_kind(capsys):
    benchmark_zoom.main(["--split", "test", "--first", "2", "--images", "1", "--kinds", "box", "expression"])
    header, _, box, expression = capsys.readouterr().out.splitlines()
    assert header.startswith("test, images 2 to 2, things below 2.0% ")
    kind, number, plain, zoomed, best, *seconds = box.split()
    assert (kind, number, len(seconds)) == ("box", "3", 2) and 0 < float(plain) < float(zoomed) <= float(best) <= 100
    assert expression.split()[0] == "expression"


@pytest.mark.slow
def test_tiles_have_a_line_for_one_view_and_for_every_size(capsys):
    benchmark_tiles.main(["--image-size", "256", "--images", "1", "--tiles", "128", "--expressions", "2"])
    header, names, view, tiles = capsys.readouterr().out.splitlines()
    assert header == "test, 1 images of 256 pixels, threshold 0.8"
    assert names.split()[:3] == ["tiles", "number", "PQ"] and view.startswith("one view       1 ") and tiles.startswith("128            9 ")
    assert 0 <= float(view.split()[3]) < float(tiles.split()[2]) <= 100
