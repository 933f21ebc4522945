"""The command that starts the HTTP service."""

import socket
import sys

import pytest

from psalm_hf.cli.serve import main, parse_arguments


def test_without_ray_it_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert main(["--port", str(free_port())]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == "error: the service needs Ray and FastAPI, which are not installed: pip install psalm_hf[scale]"


def test_the_service_is_for_this_machine_alone_and_bounded_unless_told_otherwise():
    options = parse_arguments([])
    assert (options.host, options.max_inside, options.timeout, options.max_batch_size) == ("127.0.0.1", 32, 60, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "0"], "--port must be between 1 and 65535, got 0"),
        (["--max-batch-size", "0"], "--max-batch-size must be at least 1, got 0"),
        (["--max-inside", "4"], "--max-inside must be at least --max-batch-size (8), got 4"),
        (["--timeout", "nan"], "--timeout must be at least 1"),
        (["--device", "cuda:1"], "say --device cuda"),
        (["--checkpiont", "x"], "did you mean --checkpoint?"),
        (["--checkpoint", "psalm-tyni"], "did you mean psalm-tiny?"),
        (["--host", "192.0.2.1"], "--host 192.0.2.1 --port 8000: cannot be listened at"),
    ],
)
def test_mistakes_are_told_before_anything_is_started(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_port_that_is_taken_is_refused(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 2
    assert f"--port {port}: cannot be listened at (Address already in use); choose another port" in capsys.readouterr().err


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
