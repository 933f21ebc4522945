"""PsalmTrainer: the Trainer with batches of one task, loss terms logged by task and name, and its own rate for the vision tower."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer

from ..model.rows import KINDS


class PsalmTrainer(Trainer):
    """Trains a `PsalmForSegmentation`.

    Args:
        batch_sampler: positions of every batch in `train_dataset`, see `data.mixture.OneTaskPerBatch`.
        others: as of `Trainer`; `args` a `PsalmTrainingArguments`.
    """

    def __init__(self, *args: Any, batch_sampler: Sampler, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.batch_sampler = batch_sampler
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

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            logs |= {name: round(torch.stack(values).mean().item(), 4) for name, values in sorted(self._terms.items())}
            self._terms.clear()
        super().log(logs, *args, **kwargs)
