"""The benchmark of post-processing on a small image; that it is fast is no test."""

from examples.benchmark_postprocessing import main


def test_the_table_has_a_line_for_every_kind(capsys):
    main(["--size", "60", "80"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["panoptic", "instance", "semantic", "referring", "region"]
