"""Times psalm predict by engine: images per second and processor seconds per image; nothing here is a test.

    python examples/benchmark_folder.py                                            # psalm-tiny, 400 drawn images: minutes
    python examples/benchmark_folder.py --images photos --checkpoint PSALM_FOLDER --processes 1 2 4 --ray 0

Every engine does the same images into a folder of its own, and the results are compared. A run is timed from its first batch to its
last, so that starting Python, Ray and the model is not in the rates; "start, s" is what passes before. "processor ms" is that of all
processes of the run together, per image; "MiB" is the resident memory of the largest of them, after a quarter of the images and at the
end. "load" is how many processes wanted a CPU in the last minute, those of other programs included.
"""

import argparse
import contextlib
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


def run(words: list[str], output: Path, batch_size: int) -> dict[str, float]:
    """Runs a command, and watches its batches, processor time and memory."""
    import psutil

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    begin = time.perf_counter()
    process = subprocess.Popen([*words, "--output", str(output)], env=environment, stderr=subprocess.PIPE, text=True)
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.append(process.stderr.read()))
    reader.start()
    seconds: dict[int, float] = {}  # of each process, also of those that have ended
    moments = []
    while process.poll() is None:
        batches, memory = sum(path.read_bytes().count(b"\n") for path in output.glob("answers/*.jsonl")), 0.0
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = one.cpu_times()
                    seconds[one.pid], memory = times.user + times.system, max(memory, one.memory_info().rss / 2**20)
        moments.append((batches, time.perf_counter() - begin, sum(seconds.values()), memory))
        time.sleep(0.1)
    reader.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{errors[0][-3000:]}")
    first = next(moment for moment in moments if moment[0])
    last = next(moment for moment in moments if moment[0] == moments[-1][0])
    images = (last[0] - first[0]) * batch_size
    return {
        "rate": images / (last[1] - first[1]),
        "start": first[1],
        "processor": 1000 * (last[2] - first[2]) / images,
        "quarter": max(moment[3] for moment in moments if moment[0] <= last[0] / 4),
        "end": last[3],
        "load": os.getloadavg()[0],
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
        heads = ("images / s", "start, s", "processor ms", "MiB at 1/4", "MiB at end", "load")
        print(f"{'':<16}{''.join(f'{head:>14}' for head in heads)}  results")
        expected = None
        for number, (name, command) in enumerate(cases.items()):
            output = Path(workspace, str(number))
            found = run(command, output, options.batch_size)
            results = (output / "results.json").read_bytes()
            expected = expected or results
            figures = (
                f"{found['rate']:>14.1f}{found['start']:>14.1f}{found['processor']:>14.1f}{found['quarter']:>14.0f}{found['end']:>14.0f}"
            )
            print(f"{name:<16}{figures}{found['load']:>14.1f}  {'equal' if results == expected else 'OTHERS'}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
