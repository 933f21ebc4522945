"""PsalmTrainer: the Trainer with batches of one task, loss terms logged by task and name, and its own rate for the vision tower."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer

from ..model.rows import KINDS


class PsalmTrainer(Trainer):
    """Trains a `PsalmForSegmentation`.

    Args:
        batch_sampler: positions of every batch in `train_dataset`, see `data.mixture.OneTaskPerBatch`.
        evaluation: what `eval_strategy` runs: model in eval mode -> numbers by name, logged as `eval_<name>`, so that
            `metric_for_best_model` takes these names. Gradients are its business. It leaves no trace: modules are back in their modes
            and random numbers go on as if nothing had been drawn, so a run with evaluations ends with the weights of one without.
        others: as of `Trainer`; `args` a `PsalmTrainingArguments`. There is no `eval_dataset`.

    Raises:
        ValueError: `eval_strategy` without `evaluation`.
    """

    def __init__(
        self,
        *args: Any,
        batch_sampler: Sampler,
        evaluation: Callable[[nn.Module], dict[str, float]] | None = None,
        **kwargs: Any,
    ):
        # Trainer refuses an `eval_strategy` without eval_dataset; `evaluation` brings its own pictures, so this one stays empty.
        super().__init__(*args, eval_dataset=(), **kwargs)
        if evaluation is None and self.args.eval_strategy != "no":
            raise ValueError(
                f"eval_strategy is {self.args.eval_strategy.value!r}, but nothing is measured: pass `evaluation` (eval_images in the "
                "config of stage 2), or set eval_strategy to 'no'"
            )
        self.batch_sampler = batch_sampler
        self.evaluation = evaluation
        self._terms: dict[str, list[Tensor]] = defaultdict(list)  # since the last log
        if self.args.vision_learning_rate is None:
            self.model.model.vision_tower.requires_grad_(False)

    def get_train_dataloader(self) -> DataLoader:
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=self.batch_sampler,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
        )
        return self.accelerator.prepare(loader)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            decayed = set(self.get_decay_parameter_names(self.model))
            groups: dict[tuple[bool, bool], list[nn.Parameter]] = defaultdict(list)
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    groups["vision_tower." in name, name in decayed].append(parameter)
            self.optimizer = torch.optim.AdamW(
                [
                    {
                        "params": parameters,
                        "lr": self.args.vision_learning_rate if is_vision else self.args.learning_rate,
                        "weight_decay": self.args.weight_decay if is_decayed else 0.0,
                    }
                    for (is_vision, is_decayed), parameters in groups.items()
                ],
                betas=(self.args.adam_beta1, self.args.adam_beta2),
            )
        return self.optimizer

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        if model.training:
            self.accelerator.unwrap_model(model).model.vision_tower.eval()  # no drop path, no new batch statistics
        outputs = model(**inputs)
        kind = KINDS[int(inputs["condition_type"][0])]
        if model.training:
            for name, value in outputs.losses.items():
                if not name[-1].isdigit():  # of the last depth; the earlier ones follow it
                    self._terms[f"{kind}/{name}"].append(value.detach())
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def evaluate(self, *, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """What `evaluation` measures now, under `<metric_key_prefix>_<name>`; also logged and told to the callbacks.

        Args:
            ignore_keys: of the Trainer, which asks with it; not read.
        """
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        with kept_random_state(self.args.device):
            measured = self.evaluation(self.model)
        for module, training in modes:
            module.training = training
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            logs |= {name: round(torch.stack(values).mean().item(), 4) for name, values in sorted(self._terms.items())}
            self._terms.clear()
        super().log(logs, *args, **kwargs)


@contextmanager
def kept_random_state(device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside, random numbers go on as before: those of Python, numpy, and torch on the CPU and on `device`."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def train_only(model: nn.Module, names: Sequence[str]) -> None:
    """Freezes every parameter of `model` outside of these submodules.

    Args:
        names: as in the state dict: "model.projector", "lm_head". The vision tower also needs a `vision_learning_rate`.

    Raises:
        ValueError: a name that the model does not have.
    """
    parts = dict(model.named_modules())
    for name in names:
        if name not in parts:
            some = ", ".join(part for part in parts if part and part.count(".") < 2)
            raise ValueError(f"the model has no submodule {name!r} to train; it has {some}, and their parts")
    model.requires_grad_(False)
    for name in names:
        parts[name].requires_grad_(True)


def last_checkpoint(output_dir: str | Path) -> str:
    """The newest complete `checkpoint-<step>` of a run, for `train(resume_from_checkpoint=...)`.

    Raises:
        ValueError: there is none.
    """
    # The Trainer writes this file last: a run that is killed while it saves leaves a folder without it.
    complete = [path.parent for path in Path(output_dir).glob("checkpoint-*/trainer_state.json")]
    if not complete:
        raise ValueError(f"{output_dir}: no complete checkpoint to go on from; start the run without resuming")
    return str(max(complete, key=lambda path: int(path.name.rsplit("-", 1)[1])))
