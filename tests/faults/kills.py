"""Runs psalm predict on many images, kills it at random moments and gives the same command again, and compares with an undisturbed run.

    python -m tests.faults.kills FOLDER --images 2000 --kills 10
    python -m tests.faults.kills FOLDER --images 2000 --kills 10 --processes 2
    python -m tests.faults.kills FOLDER --images 200 --kills 2 --ray 2

Prints a JSON object: the batches that were on the disk at each kill, how often a batch was written, and whether the results are equal.
One process is a fork of this one, which has imported everything.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import torch

from psalm_hf.cli import predict

ROOT = Path(__file__).parents[2]


def parse_arguments(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--ray", type=int, default=0, help="actors")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(words)


def make_inputs(folder, number):
    """Images of noise and a checkpoint of random weights."""
    import numpy as np
    from PIL import Image

    from psalm_hf.tiny import build_tiny

    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for index in range(number):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"images/{index:05}.png")
    (folder / "images/00007.png").write_bytes(b"broken")
    for part in build_tiny(seed=0, image_size=64):
        part.save_pretrained(folder / "checkpoint")


def written(output):
    """Batch -> how many whole lines it has."""
    lines = [line for path in output.glob("answers/*.jsonl") for line in path.read_bytes().splitlines(keepends=True)]
    return Counter(int(line[: line.find(b",")].removeprefix(b'{"row":')) for line in lines if line.endswith(b"\n"))


def start(options, output):
    """Starts the command; whoever it is has a `pid`."""
    words = [str(options.folder / "images"), "--checkpoint", str(options.folder / "checkpoint"), "--device", "cpu", "--output", str(output)]
    words += ["--categories", "cup", "table", "--task", "instance", "--threshold", "0.3"]
    if options.processes == 1 and not options.ray:
        child = multiprocessing.get_context("fork").Process(target=run_forked, args=(words, options.folder / "errors"))
        child.start()
        return child
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", str(options.processes)] if options.processes > 1 else []
    engine = ["--engine", "ray", "--actors", str(options.ray), "--readers", "1"] if options.ray else []
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(options.folder / "errors", "ab") as errors:
        command = [sys.executable, *launch, str(ROOT / "examples/predict.py"), *words, *engine]
        return subprocess.Popen(command, env=environment, stderr=errors, stdout=errors, start_new_session=True)


def run_forked(words, errors):
    os.setsid()
    with open(errors, "ab") as file:
        os.dup2(file.fileno(), 2)
    sys.exit(predict.main(words))


def status_of(process):
    """Exit status, None while it runs."""
    return process.poll() if isinstance(process, subprocess.Popen) else process.exitcode


def wait(process):
    while status_of(process) is None:
        time.sleep(0.02)
    return status_of(process)


def finish(process, options):
    status = wait(process)
    if status != 1:  # one image is broken, and a launcher says 1 of all that goes wrong
        raise SystemExit(f"the run ended with {status}:\n{(options.folder / 'errors').read_text(errors='replace')[-3000:]}")


def main(words=None):
    options = parse_arguments(words)
    torch.set_num_threads(1)  # a fork has no other threads than the one that forks
    make_inputs(options.folder, options.images)
    begin = time.perf_counter()
    undisturbed, output = options.folder / "undisturbed", options.folder / "killed"
    finish(start(options, undisturbed), options)
    seconds, batches = time.perf_counter() - begin, len(written(undisturbed))
    rng = random.Random(options.seed)
    moments, at_kill = sorted(rng.sample(range(1, batches - 1), options.kills)), []
    for moment in moments:
        process = start(options, output)
        while len(written(output)) < moment and status_of(process) is None:
            time.sleep(0.02)
        time.sleep(rng.random() * 0.1)
        os.killpg(process.pid, signal.SIGKILL)
        wait(process)
        at_kill.append(len(written(output)))
    finish(start(options, output), options)
    same = {
        name: (output / name).read_bytes() == (undisturbed / name).read_bytes() for name in ("results.json", "images.json", "failures.json")
    }
    ids = Counter(image["id"] for image in json.loads((output / "images.json").read_bytes())["images"])
    times = Counter(written(output).values())
    report = {"batches": batches, "seconds undisturbed": round(seconds, 1), "batches at each kill": at_kill}
    report |= {"batches by times written": dict(times), "images": len(ids), "images twice": sum(n > 1 for n in ids.values()), "equal": same}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
