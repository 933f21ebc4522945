"""Times the model by part, prompt, vocabulary, image size and dtype, also of one checkout against another; nothing here is a test.

    python examples/benchmark.py                                              # psalm-tiny, about a minute
    python examples/benchmark.py --checkpoint PSALM_FOLDER --repeats 1 --only "one expression" "ten expressions"
    python examples/benchmark.py --against ../psalm-before --json times.json  # this checkout, the other, this, the other

Seconds of processor time, which other programs disturb less, and on the clock; medians of the repeats, the first call left out.
With --against each checkout is measured in processes of its own, and a ratio below 1 says that this one is faster; "-" is what a checkout
cannot do. Inputs are prepared once, and not timed but in the rows of whole images.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PARTS = {
    "vision tower": "model.vision_tower",
    "pixel decoder": "model.pixel_decoder",
    "language model": "model.language_model",
    "mask decoder": "mask_decoder",
}
WITH_PARTS = ("one expression", "ten expressions")
EXPRESSIONS = [f"the {colour} thing on the {side}" for colour in ("red", "green", "blue", "white", "yellow") for side in ("left", "right")]
CATEGORIES = ["circle", "square", "triangle", "grass", "sand"]
Seconds = tuple[float, float]  # of the processor, on the clock


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", help="file or URL (default: drawn shapes)")
    parser.add_argument("--checkpoint", default="psalm-tiny", help="folder or Hub id (default: psalm-tiny)")
    parser.add_argument("--device", default="cpu", help="such as cpu, cuda:1, mps or xpu (default: cpu)")
    parser.add_argument("--dtype", nargs="+", default=["float32"], choices=("float32", "bfloat16"), help="(default: float32)")
    parser.add_argument("--compile", action="store_true", help="compile the model first, where a checkout can; parts are not timed then")
    parser.add_argument("--names", type=int, nargs="+", default=[20, 133], help="lengths of vocabularies (default: 20 133)")
    sizes = ["480x640", "1500x2000"]
    parser.add_argument("--sizes", nargs="+", default=sizes, help=f"of whole images, HEIGHTxWIDTH (default: {' '.join(sizes)})")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each row (default: 5)")
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", help="rows whose names begin so (default: all)")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout of this project")
    parser.add_argument("--rounds", type=int, default=2, help="processes for each checkout (default: 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the table with every single time, as JSON")
    options = parser.parse_args(arguments)
    if min(options.repeats, options.rounds) < 1:
        parser.error("--repeats and --rounds must be at least 1")
    if options.against and not (options.against / "psalm_hf").is_dir():
        parser.error(f"--against {options.against}: no checkout of this project, there is no folder psalm_hf in it")
    return options


class Clock:
    """Seconds of calls, and of the model's parts inside them."""

    def __init__(self, model: Any, parts: dict[str, str]):
        self.model, self.names = model, ["", *parts]
        self._restart()
        for name, path in parts.items():
            module = model.get_submodule(path)
            module.register_forward_pre_hook(lambda *_, name=name: self._add(name, -1))
            module.register_forward_hook(lambda *_, name=name: self._add(name, 1))

    def _restart(self) -> None:
        self.parts: dict[str, Seconds] = dict.fromkeys(self.names, (0.0, 0.0))

    def _now(self) -> Seconds:
        if self.model.device.type != "cpu":
            import torch

            torch.accelerator.synchronize(self.model.device)
        return time.process_time(), time.perf_counter()

    def _add(self, part: str, sign: int) -> None:
        self.parts[part] = tuple(total + sign * now for total, now in zip(self.parts[part], self._now(), strict=True))

    def measure(self, call: Callable[[], object]) -> dict[str, Seconds]:
        """Seconds of a call (the name "") and of each part in it."""
        self._restart()
        self._add("", -1)
        call()
        self._add("", 1)
        return self.parts


class Cases:
    """Rows of the table: name -> function that prepares a call. The functions use only what every checkout has had, or raise
    ImportError or AttributeError."""

    def __init__(self, model: Any, processor: Any, image: Any):
        self.model, self.processor, self.image = model, processor, image

    def rows(self, options: argparse.Namespace) -> dict[str, Callable[[], Callable[[], object]]]:
        regions = [{"box": box} for box in self.boxes()]
        post = self.processor.post_process_panoptic_segmentation, self.processor.post_process_referring_segmentation
        rows = {
            "one expression": lambda: self.forward(expressions=EXPRESSIONS[:1]),
            "one expression, post-processing": lambda: self.post_processing(post[1], expressions=EXPRESSIONS[:1]),
            "ten expressions": lambda: self.forward(expressions=EXPRESSIONS),
            "ten expressions, post-processing": lambda: self.post_processing(post[1], expressions=EXPRESSIONS),
            "ten calls, one expression each": self.one_by_one,
            "second expression on an encoded image": self.second_prompt,
            "5 categories": lambda: self.forward(categories=CATEGORIES),
            "5 categories, post-processing": lambda: self.post_processing(post[0], categories=CATEGORIES),
            "5 regions": lambda: self.forward(regions=regions),
            "video frame, 5 objects": self.video_frame,
            "training step, one expression": lambda: self.training_step(expressions=EXPRESSIONS[:1]),
        }
        rows |= {f"{number} names": lambda number=number: self.vocabulary(number) for number in options.names}
        return rows | {f"whole image of {size}": lambda size=size: self.whole_image(size) for size in options.sizes}

    def boxes(self) -> list[tuple[int, int, int, int]]:
        width, height = self.image.size
        return [(step * width // 8, step * height // 8, (step + 2) * width // 8, (step + 2) * height // 8) for step in range(5)]

    def inputs(self, **prompt: Any) -> dict[str, Any]:
        return dict(self.processor(**{"images": self.image} | prompt, return_tensors="pt").to(self.model.device))

    def forward(self, **prompt: Any) -> Callable[[], object]:
        inputs = self.inputs(**prompt)
        return without_gradient(lambda: self.model(**inputs))

    def post_processing(self, post_process: Callable, **prompt: Any) -> Callable[[], object]:
        inputs = self.inputs(**prompt)
        outputs = without_gradient(lambda: self.model(**inputs))()
        return without_gradient(lambda: post_process(outputs, target_sizes=inputs["original_sizes"]))

    def one_by_one(self) -> Callable[[], object]:
        calls = [self.forward(expressions=[expression]) for expression in EXPRESSIONS]
        return lambda: [call() for call in calls]

    def second_prompt(self) -> Callable[[], object]:
        first, second = (self.inputs(expressions=[expression]) for expression in EXPRESSIONS[:2])
        features = without_gradient(lambda: self.model(**first, output_image_features=True))().image_features
        second.pop("pixel_values")
        return without_gradient(lambda: self.model(**second, image_features=features))

    def vocabulary(self, number: int) -> Callable[[], object]:
        """The first names of LVIS, in as many rows on the image as the length of a prompt asks for."""
        from psalm_hf.data.benchmarks.label_lists import joined_names
        from psalm_hf.vocabulary import split_names

        parts = split_names(self.processor, joined_names("lvis")[:number])
        return self.forward(images=[self.image] * len(parts), categories=parts)

    def whole_image(self, size: str) -> Callable[[], object]:
        """Processor, model and post-processing."""
        height, width = map(int, size.split("x"))
        image = self.image.resize((width, height))

        def call() -> object:
            inputs = self.inputs(images=image, expressions=EXPRESSIONS[:1])
            return self.processor.post_process_referring_segmentation(self.model(**inputs), target_sizes=inputs["original_sizes"])

        return without_gradient(call)

    def video_frame(self) -> Callable[[], object]:
        import numpy as np

        from psalm_hf import PsalmVideoSession

        session, frame = PsalmVideoSession(self.model, self.processor), np.asarray(self.image)
        session.add_objects(frame, {name: {"box": box} for name, box in enumerate(self.boxes(), 1)})
        shifts = iter(range(1, frame.shape[1]))  # a frame that is given again is not encoded again
        return lambda: session.track(np.roll(frame, next(shifts), axis=1))

    def training_step(self, **prompt: Any) -> Callable[[], object]:
        import numpy as np

        width, height = self.image.size
        masks = np.zeros((1, height, width), bool)
        masks[:, height // 4 : height // 2, width // 4 : width // 2] = True
        inputs = self.inputs(**prompt, targets=[{"masks": masks}])

        def call() -> None:
            self.model.train()
            self.model(**inputs).loss.backward()
            self.model.zero_grad()
            self.model.eval()

        return call


def without_gradient(call: Callable[[], object]) -> Callable[[], object]:
    import torch

    return torch.inference_mode()(call)


def measure(options: argparse.Namespace) -> dict[str, list[Seconds] | None]:
    """Row of the table -> seconds of each repeat, None where this checkout has no such thing."""
    from PIL import Image

    from psalm_hf import load_image
    from psalm_hf.cli.command import load_model
    from psalm_hf.data.shapes.scene import make_scene

    image = load_image(options.image) if options.image else Image.fromarray(make_scene("test", 0, image_size=640).image[:480])
    times: dict[str, list[Seconds] | None] = defaultdict(list)
    for dtype in options.dtype:
        model, processor = load_model(argparse.Namespace(**vars(options) | {"dtype": dtype}))
        clock = Clock(model, {} if options.compile else PARTS)
        for name, prepare in Cases(model, processor, image).rows(options).items():
            row = f"{dtype}: {name}"
            if options.only and not name.startswith(tuple(options.only)):
                continue
            try:
                call = prepare()
            except (ImportError, AttributeError):
                times[row] = None
                continue
            for repeat in range(options.repeats + 1):
                found = clock.measure(call)
                for part, seconds in found.items() if repeat else ():
                    if not part or name in WITH_PARTS:
                        times[f"{row}, {part}" if part else row].append(seconds)
    return dict(times)


def compare(options: argparse.Namespace) -> dict[str, dict[str, list[Seconds] | None]]:
    """`measure` of this checkout and of another in turn, each time in a process of its own; both run this file."""
    arguments = [options.image] if options.image else []
    for name in ("checkpoint", "device", "dtype", "names", "sizes", "repeats", "only"):
        values = getattr(options, name)
        values = values if isinstance(values, list) else [values]
        arguments += [f"--{name}", *map(str, values)] if values else []
    arguments += ["--compile"] if options.compile else []
    times: dict[str, dict[str, list[Seconds] | None]] = {"this": {}, "other": {}}
    folders = {"this": Path(__file__).parents[1], "other": options.against}
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "times.json"
        for checkout in [*folders] * options.rounds:
            environment = os.environ | {"PYTHONPATH": str(folders[checkout].resolve())}
            command = [sys.executable, __file__, *arguments, "--json", str(file)]
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            for row, seconds in json.loads(file.read_text(encoding="utf-8"))["times"]["this"].items():
                times[checkout][row] = seconds and [*times[checkout].get(row, []), *seconds]
    return times


def describe_machine() -> dict[str, Any]:
    """Name of the CPU, what it can do in bfloat16, threads, versions."""
    import torch
    import transformers

    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*: (.*)", info)
    flags = re.search(r"(?:flags|Features)\s*: (.*)", info)
    support = [flag for flag in (flags[1].split() if flags else []) if "bf16" in flag]
    return {
        "cpu": name[1] if name else platform.processor() or platform.machine(),
        "bfloat16": " ".join(support) or "no instructions found",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def table(times: dict[str, dict[str, list[Seconds] | None]]) -> Iterator[str]:
    """Lines of the table: a row for every call and part, columns for every checkout, and the ratios of two."""
    names = list(dict.fromkeys(row for of_checkout in times.values() for row in of_checkout))
    width = max(map(len, names))
    heads = [f"{checkout}, {unit}" for checkout in times for unit in ("processor", "clock")]
    yield f"{'seconds':<{width}}" + "".join(f"{head:>18}" for head in [*heads, *["ratio"] * (len(times) - 1)])
    for row in names:
        found = [of_checkout.get(row) for of_checkout in times.values()]
        medians = [[statistics.median(column) for column in zip(*seconds, strict=True)] if seconds else None for seconds in found]
        cells = [text for pair in medians for text in ([f"{value:.4f}" for value in pair] if pair else ["-", "-"])]
        if len(medians) == 2:
            cells.append(f"{medians[0][0] / medians[1][0]:.2f}" if all(medians) and medians[1][0] else "-")
        yield f"{row:<{width}}" + "".join(f"{cell:>18}" for cell in cells)


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    times = compare(options) if options.against else {"this": measure(options)}
    machine = describe_machine()
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(*table(times), sep="\n")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "options": vars(options), "times": times}, indent=1, default=str))


if __name__ == "__main__":
    sys.exit(main())
