"""Times psalm predict by engine: images per second and processor seconds per image; nothing here is a test.

    python examples/benchmark_folder.py                                            # psalm-tiny, 400 drawn images: minutes
    python examples/benchmark_folder.py --images photos --checkpoint PSALM_FOLDER --processes 1 2 4 --ray 0

Every engine does the same images into a folder of its own, and the results are compared. A run is timed from its first batch to its
last, by the times of the lines in answers/, so that starting Python, Ray and the model is not in the rate; "start, s" is what passes
before. "processor s" is that of all processes together, start included, divided by the images; "MiB" is the largest resident memory of
one process, after a quarter of the images and at the end.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder (default: drawn images)")
    parser.add_argument("--number", type=int, default=400, help="of drawn images (default: 400)")
    parser.add_argument("--size", type=int, default=64, help="side of a drawn image in pixels (default: 64)")
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2], help="numbers of processes to time (default: 1 2)")
    parser.add_argument("--ray", type=int, nargs="*", default=[2], help="numbers of Ray actors to time, 0 = none (default: 2)")
    parser.add_argument("--checkpoint", default="psalm-tiny", help="folder or Hub id (default: psalm-tiny)")
    parser.add_argument("--categories", nargs="+", default=["circle", "square", "triangle", "star", "grass"])
    parser.add_argument("--batch-size", type=int, default=8)
    return parser.parse_args(arguments)


def draw_images(folder: Path, number: int, size: int) -> None:
    """Writes images of the shapes world."""
    from PIL import Image

    from psalm_hf.data.shapes.scene import make_scene

    folder.mkdir()
    for index in range(number):
        Image.fromarray(make_scene("test", index, image_size=size).image).save(folder / f"{index:06}.png")


def run(words: list[str], output: Path) -> dict[str, float]:
    """Runs a command, and watches its lines and memory."""
    import psutil

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    before, begin = os.times(), time.perf_counter()
    process = subprocess.Popen([*words, "--output", str(output)], env=environment, stderr=subprocess.PIPE, text=True)
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.append(process.stderr.read()))
    reader.start()
    moments, memory = [], []
    while process.poll() is None:
        lines = sum(path.read_bytes().count(b"\n") for path in output.glob("answers/*.jsonl"))
        moments.append((time.perf_counter() - begin, lines))
        try:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            memory.append((lines, max(one.memory_info().rss for one in family) / 2**20))
        except psutil.Error:  # one of them has just ended
            pass
        time.sleep(0.1)
    reader.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{errors[0][-3000:]}")
    after, batches = os.times(), sum(path.read_bytes().count(b"\n") for path in output.glob("answers/*.jsonl"))
    first = next(moment for moment in moments if moment[1])
    last = next((moment for moment in moments if moment[1] == batches), moments[-1])
    quarter = [rss for lines, rss in memory if 0 < lines <= batches / 4] or [rss for lines, rss in memory if lines]
    return {
        "rate": (last[1] - first[1]) / max(last[0] - first[0], 1e-9),
        "start": first[0],
        "processor": after.children_user + after.children_system - before.children_user - before.children_system,
        "quarter": max(quarter),
        "end": max(rss for _, rss in memory[-20:]),
    }


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    with tempfile.TemporaryDirectory() as workspace:
        folder = options.images or Path(workspace, "images")
        if options.images is None:
            draw_images(folder, options.number, options.size)
        words = [str(folder), "--categories", *options.categories, "--task", "instance", "--device", "cpu"]
        words += ["--checkpoint", options.checkpoint, "--batch-size", str(options.batch_size)]
        script, python = str(ROOT / "examples/predict.py"), sys.executable
        launch = [python, "-m", "torch.distributed.run", "--nproc_per_node"]
        cases = {f"{number} processes": [*launch, str(number), script, *words] for number in options.processes if number > 1}
        if 1 in options.processes:
            cases = {"1 process": [python, script, *words]} | cases
        for number in filter(None, options.ray):
            cases[f"Ray, {number} actors"] = [python, script, *words, "--engine", "ray", "--actors", str(number), "--readers", "1"]
        print(f"{'':<16}{'images / s':>12}{'start, s':>10}{'processor s / image':>21}{'MiB at 1/4':>12}{'MiB at end':>12}  results")
        expected = None
        for number, (name, command) in enumerate(cases.items()):
            output = Path(workspace, str(number))
            found = run(command, output)
            results, images = (output / "results.json").read_bytes(), len(json.loads((output / "images.json").read_bytes())["images"])
            expected = expected or results
            print(
                f"{name:<16}{found['rate'] * options.batch_size:>12.1f}{found['start']:>10.1f}{found['processor'] / images:>21.3f}"
                f"{found['quarter']:>12.0f}{found['end']:>12.0f}  {'equal' if results == expected else 'OTHERS'}",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
