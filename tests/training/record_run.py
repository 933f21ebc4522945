"""Runs a training script on samples with equal numbers of targets, and writes down what every process does.

    torchrun --nproc_per_node 2 tests/training/record_run.py RECORDS examples/train_stage2.py --config ...

Losses are means over the targets of a batch, so numbers of different divisions into batches agree only if all batches have as many.
RECORDS/<rank>.jsonl gets a line per batch: optimizer step, kind of prompt, a hash of the inputs, the loss, the id of the process, and how
many weights it holds between steps.
"""

import importlib.util
import json
import os
import sys
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


def main() -> int:
    records, script, *arguments = sys.argv[1:]
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


if __name__ == "__main__":
    sys.exit(main())
