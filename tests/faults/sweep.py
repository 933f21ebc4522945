"""Runs a command again and again, with a fault at another event each time, and the same command after it.

    python -m tests.faults.sweep evaluate FOLDER kill              every event
    python -m tests.faults.sweep train FOLDER full some 30         first, middle and last event of each file, and 30 others
    python -m tests.faults.sweep evaluate FOLDER kill each 20      every 20th event

Prints a JSON object: the events of an undisturbed run, how many of them were tried, and what was wrong afterwards. Each run is a fork of a
process that has imported everything, so it takes little more than its own work.
"""

import json
import os
import random
import re
import shutil
import signal
import sys
from collections import defaultdict
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path

import torch

from tests.faults.shim import FULL, KILL, Faults, child


class Case:
    """One command: what it reads is made once, what it writes is compared.

    Args:
        folder: of everything; `inputs` is for what it reads.

    Attributes:
        imports: modules that the command loads.
        is_warmed: whether it is run once in the process that is forked, which then has loaded everything.
    """

    imports = ()
    is_warmed = True

    def __init__(self, folder):
        for module in self.imports:
            import_module(module)
        self.inputs = folder / "inputs"
        self.inputs.mkdir()
        self.prepare()
        if self.is_warmed:
            (folder / "warm").mkdir()
            self.begin(folder / "warm")
            with redirect_stdout(sys.stderr):
                self.run(folder / "warm")

    def prepare(self):
        """Makes the inputs."""

    def begin(self, output):
        """Makes what lies in the folder before the command writes there."""

    def run(self, output):
        """The command; returns its exit status."""
        raise NotImplementedError

    def result(self, output):
        """Content that must be equal to that of an undisturbed run: by default the bytes of every file."""
        return {path.relative_to(output).as_posix(): path.read_bytes() for path in sorted(output.rglob("*")) if path.is_file()}

    def kept(self, output):
        """Work that a disturbed run has done, and the next one must not do again."""
        return None

    def is_taken_up(self, kept, output):
        """True if the run after the fault began with what was kept."""
        return True


class Checkpoint(Case):
    imports = ("psalm_hf.checkpoints.writing",)

    def prepare(self):
        from psalm_hf.tiny import build_tiny

        self.parts = build_tiny()

    def run(self, output):
        from psalm_hf.checkpoints.writing import write_checkpoint

        was_there = (output / "checkpoint").exists()
        try:
            write_checkpoint(output / "checkpoint", *self.parts)
        except ValueError as error:
            if not (was_there and "exists already" in str(error)):  # then it is complete, which is compared
                raise


class Prepare(Case):
    """Layout of maps, and a file that is joined from parts."""

    imports = ("psalm_hf.data.prepare.pascal_voc", "psalm_hf.data.benchmarks.coco_interactive")

    def prepare(self):
        import numpy as np
        from PIL import Image

        from psalm_hf.cli import prepare
        from psalm_hf.data.prepare import coco_interactive

        coco_interactive.IMAGES_PER_PART, self.command = 1, prepare.main
        voc = self.inputs / "VOCdevkit/VOC2012"
        for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            (voc / name).mkdir(parents=True)
        for name in "ab":
            Image.new("RGB", (3, 2)).save(voc / f"JPEGImages/{name}.jpg")
            Image.fromarray(np.array([[0, 1, 255], [20, 2, 0]], dtype=np.uint8)).save(voc / f"SegmentationClass/{name}.png")
        (voc / "ImageSets/Segmentation/val.txt").write_text("a\nb\n", encoding="utf-8")
        polygon = [2, 2, 30, 2, 30, 30, 2, 30]
        images = [{"id": number, "file_name": f"{number:012}.jpg", "height": 40, "width": 40} for number in (1, 2)]
        box = {"bbox": [2, 2, 28, 28], "area": 784, "iscrowd": 0, "category_id": 1, "segmentation": [polygon]}
        annotations = [{"id": number, "image_id": number, **box} for number in (1, 2)]
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
        (self.inputs / "instances_val2017.json").write_text(json.dumps(content), encoding="utf-8")

    def begin(self, output):
        (output / "coco/annotations").mkdir(parents=True)
        shutil.copy(self.inputs / "instances_val2017.json", output / "coco/annotations")

    def run(self, output):
        words = ["pascal_voc", str(self.inputs / "VOCdevkit"), str(output / "voc"), "--splits", "val"]
        return self.command(words) or self.command(["coco_interactive", str(output / "coco"), "--split", "val"])


class Evaluate(Case):
    """Six images with boxes."""

    imports = ("psalm_hf.evaluation.evaluation", "psalm_hf.public", "accelerate")

    def prepare(self):
        from psalm_hf.cli import evaluate
        from psalm_hf.evaluation.records import Records
        from psalm_hf.tiny import build_tiny

        self.command = evaluate.main
        for part in build_tiny(image_size=64):
            part.save_pretrained(self.inputs / "checkpoint")
        append = Records.append

        def counted(records, predictions):
            predictions = list(predictions)
            with open(self.inputs / "predicted", "a", encoding="ascii") as file:
                file.write("row\n" * len(predictions))
            append(records, predictions)

        Records.append = counted

    def run(self, output):
        words = ["--benchmark", "shapes", "--checkpoint", str(self.inputs / "checkpoint"), "--device", "cpu", "--limit", "6"]
        words += ["--parts", "box", "--batch-size", "2", "--resume", "--output-dir", str(output / "run")]
        return self.command(words)

    def result(self, output):
        files = super().result(output)
        results = json.loads(files.pop("run/results.json"))
        del results["run"]
        return files | {"run/results.json": results}

    def kept(self, output):
        (self.inputs / "predicted").unlink(missing_ok=True)
        return self._rows(output)

    def is_taken_up(self, kept, output):
        predicted = self.inputs / "predicted"
        return kept + (len(predicted.read_text().splitlines()) if predicted.exists() else 0) == self._rows(output)

    def _rows(self, output):
        return sum(path.read_bytes().count(b"\n") for path in output.glob("run/answers/*/*.jsonl"))


class Video(Case):
    """Six frames, the state saved after every second one."""

    imports = ("psalm_hf.following", "psalm_hf.public")

    def prepare(self):
        import numpy as np
        from PIL import Image

        from psalm_hf.cli import video
        from psalm_hf.tiny import build_tiny

        self.command = video.main
        for part in build_tiny(image_size=64):
            part.save_pretrained(self.inputs / "checkpoint")
        (self.inputs / "clip").mkdir()
        for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (6, 48, 64, 3), dtype=np.uint8)):
            Image.fromarray(pixels).save(self.inputs / f"clip/{number}.png")

    def run(self, output):
        words = [str(self.inputs / "clip"), "--checkpoint", str(self.inputs / "checkpoint"), "--box", "1", "5", "10", "20", "25"]
        return self.command([*words, "--save-every", "2", "--output", str(output / "tracked")])


class Predict(Case):
    """Five images, one of them broken, in batches of two, with overlays."""

    imports = ("psalm_hf.scale.folder", "psalm_hf.public", "accelerate")

    def prepare(self):
        import numpy as np
        from PIL import Image

        from psalm_hf.cli import predict
        from psalm_hf.evaluation.records import Records
        from psalm_hf.tiny import build_tiny

        self.command = predict.main
        for part in build_tiny(image_size=64):
            part.save_pretrained(self.inputs / "checkpoint")
        (self.inputs / "images").mkdir()
        for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (5, 48, 64, 3), dtype=np.uint8)):
            Image.fromarray(pixels).save(self.inputs / f"images/{number}.png")
        (self.inputs / "images/1.png").write_bytes(b"broken")
        append = Records.append

        def counted(records, predictions):
            with open(self.inputs / "predicted", "a", encoding="ascii") as file:
                file.write("batch\n" * len(predictions))
            append(records, predictions)

        Records.append = counted

    def run(self, output):
        words = [str(self.inputs / "images"), "--checkpoint", str(self.inputs / "checkpoint"), "--device", "cpu", "--overlays"]
        status = self.command([*words, "--point", "5,10", "--batch-size", "2", "--output", str(output / "run")])
        return 0 if status == 1 else status or 1  # one image is broken

    def kept(self, output):
        (self.inputs / "predicted").unlink(missing_ok=True)
        return self._batches(output)

    def is_taken_up(self, kept, output):
        predicted = self.inputs / "predicted"
        return kept + (len(predicted.read_text().splitlines()) if predicted.exists() else 0) == self._batches(output)

    def _batches(self, output):
        return sum(path.read_bytes().count(b"\n") for path in output.glob("run/answers/*.jsonl"))


class Train(Case):
    """Two steps with a checkpoint after each."""

    imports = ("psalm_hf.training.stages",)
    is_warmed = not torch.accelerator.is_available()  # with one, the threads of a backward pass forbid forks

    def prepare(self):
        from psalm_hf.cli import train
        from psalm_hf.tiny import build_tiny

        self.command = train.main
        for part in build_tiny(image_size=64):
            part.save_pretrained(self.inputs / "start")

    def run(self, output):
        from psalm_hf.training.resuming import last_checkpoint

        sizes = "{panoptic: 1, referring: 2, interactive: 1, conversation: 2}"
        words = ["--config", "tiny_shapes", "--checkpoint", str(self.inputs / "start"), "--output_dir", str(output / "run")]
        words += ["--batch_sizes", sizes, "--eval_strategy", "no", "--max_steps", "2", "--save_steps", "1", "--save_total_limit", "1"]
        words += ["--logging_steps", "1", "--dataloader_num_workers", "0"]
        try:
            last_checkpoint(output / "run")
        except ValueError:  # killed before there was one
            return self.command(words)
        return self.command([*words, "--resume"])

    def result(self, output):
        found = {}
        for path in sorted(output.rglob("*")):
            name = path.relative_to(output).as_posix()
            if path.suffix == ".safetensors":
                found[name] = path.read_bytes()
            elif path.name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
                found[name] = _plain(torch.load(path, weights_only=False))
            elif path.name == "trainer_state.json":
                history = json.loads(path.read_text(encoding="utf-8"))["log_history"]
                found[name] = [{key: entry[key] for key in ("step", "loss")} for entry in history if "loss" in entry]
            elif path.is_file() and path.name != "training_args.bin":
                found[name] = path.stat().st_size
        return found


def _plain(value):
    """Values with tensors and arrays as bytes, which compare."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "numpy"):
        value = value.numpy()
    return value.tobytes() if hasattr(value, "tobytes") else value


CASES = {"checkpoint": Checkpoint, "prepare": Prepare, "evaluate": Evaluate, "video": Video, "predict": Predict, "train": Train}


def chosen(events, how, number):
    """Numbers of the events that are tried; files of one name in several folders count as one."""
    if how == "each":
        return list(range(0, len(events), number))
    of_file = defaultdict(list)
    for index, (_, path) in enumerate(events):
        of_file[re.sub(r"\.\d+\.unfinished$", "", path.rsplit("/", 1)[-1])].append(index)
    some = {indices[place] for indices in of_file.values() for place in (0, len(indices) // 2, -1)}
    return sorted(some | set(random.Random(0).sample(range(len(events)), min(number, len(events)))))


def sweep(name, folder, kind, how="each", number=1):
    """Report of one command under one kind of fault."""
    case = CASES[name](folder)
    errors, undisturbed = folder / "errors", folder / "undisturbed"
    undisturbed.mkdir()
    case.begin(undisturbed)

    def count():
        faults = Faults(undisturbed)
        faults.install()
        status = case.run(undisturbed)
        (folder / "events.json").write_text(json.dumps(faults.events), encoding="utf-8")
        return status

    if child(count, errors):
        raise SystemExit(f"the undisturbed run fails:\n{errors.read_text()}")
    events, expected = json.loads((folder / "events.json").read_text(encoding="utf-8")), case.result(undisturbed)
    report = {"events": len(events), "tried": 0, "names": sorted({event for event, _ in events}), "failures": []}
    for at in chosen(events, how, number):
        report["tried"] += 1
        problem = _problem(case, folder / f"{kind}-{at}", at, kind, expected, errors)
        print(report["tried"], kind, at, *events[at], problem or "fine", file=sys.stderr, flush=True)
        if problem:
            report["failures"].append(f"{kind} at event {at} ({' '.join(events[at])}): {problem}")
    return report


def _problem(case, output, at, kind, expected, errors):
    """Description of the fault that another run shows after a kill or a full disk; None if all is well."""
    output.mkdir()
    case.begin(output)

    def disturbed():
        Faults(output, at, kind).install()
        return case.run(output)

    status = child(disturbed, errors)
    if kind == KILL and status != -signal.SIGKILL or kind == FULL and status < 0:
        return f"the run ended with {status}: {errors.read_text()[-2000:]}"
    kept = case.kept(output)
    if status := child(lambda: case.run(output), errors):
        return f"the same command ends with {status}: {errors.read_text()[-2000:]}"
    found = case.result(output)
    if found != expected:
        differing = [name for name in sorted(found.keys() | expected) if found.get(name) != expected.get(name)]
        return f"the result differs in {', '.join(differing)}"
    if not case.is_taken_up(kept, output):
        return "what was done before was done again"
    shutil.rmtree(output)
    return None


def main(words):
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    name, folder, kind, *choice = words
    how, number = choice or ("each", "1")
    print(json.dumps(sweep(name, Path(folder), kind, how, int(number)), indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
