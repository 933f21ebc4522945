"""Runs a training script and writes down what every process does, for tests of several processes.

    torchrun --nproc_per_node 2 tests/training/record_run.py RECORDS examples/train_stage2.py --config ...

RECORDS/<rank>.jsonl gets a line per micro-batch: optimizer step, task, a hash of the inputs, the loss.
"""

import importlib.util
import json
import os
import sys
import zlib
from pathlib import Path


def main() -> int:
    records, script, *arguments = sys.argv[1:]
    from psalm_hf.training.trainer import PsalmTrainer

    rank = os.environ.get("RANK", "0")
    Path(records).mkdir(parents=True, exist_ok=True)
    file = open(Path(records) / f"{rank}.jsonl", "a", encoding="utf-8")  # noqa: SIM115 (open as long as the process lives)
    compute_loss = PsalmTrainer.compute_loss

    def recorded(self, model, inputs, *args, **kwargs):
        number = 0
        for name in sorted(inputs):
            value = inputs[name]
            for tensor in value if isinstance(value, list) else [value]:
                number = zlib.crc32(tensor.cpu().numpy().tobytes(), number)
        loss = compute_loss(self, model, inputs, *args, **kwargs)
        line = {"step": self.state.global_step, "kind": int(inputs["condition_type"][0]), "inputs": number, "loss": float(loss)}
        file.write(json.dumps(line) + "\n")
        file.flush()  # the process may be killed
        return loss

    PsalmTrainer.compute_loss = recorded
    spec = importlib.util.spec_from_file_location("script", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
