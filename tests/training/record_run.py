"""Runs a training script on samples with equal numbers of targets, and writes down what every process does.

    torchrun --nproc_per_node 2 tests/training/record_run.py '{"RECORDS": ["--field", "value"]}' examples/train_stage2.py --config ...

Losses are means over the targets of a batch, so numbers of different divisions into batches agree only if all batches have as many.
RECORDS/<rank>.jsonl gets a line per batch: optimizer step, kind of prompt, a hash of the inputs, the loss, the id of the process, and how
many weights it holds between steps.

Several RECORDS, each with overrides of its own, are several runs one after the other. Each is a fork of a process that has imported
everything: starting Python costs more than a short run.
"""

import importlib.util
import json
import os
import socket
import sys
import time
import traceback
import zlib
from pathlib import Path

SEGMENTS = {"panoptic": 7, "referring": 1, "interactive": 4}
ANSWER = 2  # characters, each a token of the byte-level tokenizer


class Equal:
    """The samples of a source whose batches have equally many targets and answer tokens, in order."""

    def __init__(self, name, source):
        self.name, self.source = name, source
        self.found, self.following = [], 0

    def is_equal(self, sample):
        if self.name == "conversation":
            return len(sample.conversation[-1]["content"]) == ANSWER
        return len(sample.segments) == SEGMENTS[self.name]

    def __getitem__(self, index):
        while len(self.found) <= index:
            if self.is_equal(self.source[self.following]):
                self.found.append(self.following)
            self.following += 1
        return self.source[self.found[index]]


def hash_of(inputs):
    number = 0
    for name in sorted(inputs):
        value = inputs[name]
        for tensor in value if isinstance(value, list) else [value]:
            number = zlib.crc32(tensor.cpu().numpy().tobytes(), number)
    return number


def number_held(model):
    """Weights that this process holds, of a model that an engine may have divided."""
    number = 0
    for parameter in model.parameters():
        part = getattr(parameter, "ds_tensor", parameter)  # DeepSpeed's part
        number += (part.to_local() if hasattr(part, "to_local") else part).numel()  # FSDP2's part
    return number


def record(records, script, arguments) -> int:
    """One run; returns the exit status of the script."""
    from psalm_hf.data import mixture
    from psalm_hf.training.trainer import PsalmTrainer

    Path(records).mkdir(parents=True, exist_ok=True)
    file = open(Path(records) / f"{os.environ.get('RANK', '0')}.jsonl", "a", encoding="utf-8")  # noqa: SIM115 (as long as the process lives)
    compute_loss, open_source = PsalmTrainer.compute_loss, mixture.open_source

    def recorded(self, model, inputs, *args, **kwargs):
        line = {"step": self.state.global_step, "kind": int(inputs["condition_type"][0]), "inputs": hash_of(inputs)}
        line |= {"pid": os.getpid(), "held": number_held(self.model)}
        loss = compute_loss(self, model, inputs, *args, **kwargs)
        file.write(json.dumps(line | {"loss": loss.item()}) + "\n")
        file.flush()  # the process may be killed
        return loss

    PsalmTrainer.compute_loss = recorded
    mixture.open_source = lambda name, *args, **kwargs: Equal(name, open_source(name, *args, **kwargs))
    spec = importlib.util.spec_from_file_location("script", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main(arguments)


def record_in_a_fork(records, script, arguments) -> int:
    """The run in a process of its own, which finds everything as it was before the first one."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        if "RANK" in os.environ:  # torchrun's own meeting point remembers the run before
            os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "False", "MASTER_PORT": common_port(Path(records))}
        status = record(records, script, arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # what Python does at its end is for the parent


def common_port(folder) -> str:
    """A free port, of which process 0 tells the others by a file."""
    file = folder / "port"
    if os.environ["RANK"] == "0":
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            (folder / "port.part").write_text(str(free.getsockname()[1]))
        (folder / "port.part").rename(file)
    while not file.exists():
        time.sleep(0.01)
    return file.read_text()


def main() -> int:
    runs, script, *arguments = sys.argv[1:]
    runs = [(records, script, [*arguments, *overrides]) for records, overrides in json.loads(runs).items()]
    if len(runs) == 1:
        return record(*runs[0])

    from psalm_hf.data import mixture  # noqa: F401
    from psalm_hf.training import trainer  # noqa: F401

    if importlib.util.find_spec("deepspeed"):  # accelerate imports it on every engine
        import deepspeed  # noqa: F401
    return next(filter(None, (record_in_a_fork(*run) for run in runs)), 0)


if __name__ == "__main__":
    sys.exit(main())
