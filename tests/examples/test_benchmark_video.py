"""The table of the video benchmark: one line per number of objects, one vision call per frame."""

import re

from examples import benchmark_video
from psalm_hf.tiny import build_tiny


def test_every_frame_of_the_benchmark_is_encoded_once(tmp_path, capsys):
    for part in build_tiny(seed=0):
        part.save_pretrained(tmp_path)
    benchmark_video.main(["--checkpoint", str(tmp_path), "--objects", "1", "3", "--frames", "4", "--look-every", "2", "--long", "2"])
    printed = capsys.readouterr().out
    assert re.findall(r"^ +(\d+) +4 +(\d\.\d\d) ", printed, flags=re.M) == [("1", "1.00"), ("3", "1.00")]
    assert re.findall(r"^ +(\d+) +\d+\.\d$", printed, flags=re.M) == ["1", "2"]
