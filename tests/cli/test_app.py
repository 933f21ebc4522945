"""The command that starts the page."""

import sys

import pytest

from psalm_hf.cli.app import main, parse_arguments


def test_without_gradio_it_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main([]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == "error: the page needs gradio, which is not installed: pip install psalm_hf[app]"


def test_the_page_is_for_this_machine_alone_unless_told_otherwise():
    options = parse_arguments([])
    assert (options.host, options.share, options.no_labelling, str(options.data)) == ("127.0.0.1", False, False, "psalm_data")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "0"], "--port must be between 1 and 65535, got 0"),
        (["--checkpiont", "x"], "did you mean --checkpoint?"),
        (["--checkpoint", "psalm-tyni"], "did you mean psalm-tiny?"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
