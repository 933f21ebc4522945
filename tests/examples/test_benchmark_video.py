"""The table of the video benchmark: one line per number of objects, one vision call per frame."""

import importlib.util
import re
from pathlib import Path

import psalm_hf
from psalm_hf.tiny import build_tiny

SCRIPT = Path(__file__).parents[2] / "examples" / "benchmark_video.py"


def test_every_frame_of_the_benchmark_is_encoded_once(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("benchmark_video", SCRIPT)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    for part in build_tiny(seed=0):
        part.save_pretrained(tmp_path)
    monkeypatch.setattr(psalm_hf, "tiny_checkpoint", lambda: tmp_path)
    assert benchmark.main(["--objects", "1", "3", "--frames", "4", "--long", "2"]) == 0
    printed = capsys.readouterr().out
    assert re.findall(r"^ +(\d+) +4 +(\d\.\d\d) ", printed, flags=re.M) == [("1", "1.00"), ("3", "1.00")]
    assert re.findall(r"^ +(\d+) +\d+\.\d$", printed, flags=re.M) == ["1", "2"]
