"""PsalmTrainer: the Trainer with batches of one task, loss terms logged by task and name, a rate per submodule, and the same numbers
on every engine."""

import logging
import random
import resource
import time
import traceback
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..data.mixture import OneTaskPerBatch
from ..devices import kept_torch_state
from ..locking import only_run
from ..model.compatibility import TRAINS_DIVIDED
from ..model.prompts import ROW_KINDS
from ..writing import finish, sync_tree, unfinished_path
from .interruption import StopOnTerminate, ignore_terminate
from .lora import plain_name, without_adapters
from .model_card import WholePushes, card_of_run, write_card
from .progress import CountedProgress
from .resuming import check_schedule, last_checkpoint, write_schedule
from .sharding import load_sharded_optimizer, load_sharded_weights, save_sharded_optimizer

logger = logging.getLogger(__name__)


class PsalmTrainer(Trainer):
    """Trains a `PsalmForSegmentation`.

    What is random in a step (points of the losses, drop path) follows from the seed, the step and the batch, not from the process: a run
    is the same for any division of a step's batches among processes and accumulation.

    Args:
        batch_sampler: positions of every batch in `train_dataset`, a `data.mixture.OneTaskPerBatch` over `TaskSources`. They say what is
            logged as epoch, samples per second and batch size; `args.per_device_train_batch_size` becomes the number of samples of a batch.
        evaluation: what `eval_strategy` runs: model in eval mode -> numbers by name, logged as `eval_<name>`, so that
            `metric_for_best_model` takes these names. Gradients are its business. It leaves no trace: modules are back in their modes
            and random numbers go on as if nothing had been drawn, so a run with evaluations ends with the weights of one without.
        others: as of `Trainer`; `args` a `PsalmTrainingArguments`. There is no `eval_dataset`.

    Attributes:
        was_terminated: whether SIGTERM ended the run early; its last checkpoint is complete.
        is_best_loaded: whether the model has the weights of the best checkpoint, which `load_best_model_at_end` loads.

    Raises:
        ValueError: `eval_strategy` without `evaluation`; `learning_rates` or `checkpointed_parts` for submodules that do not exist; an
            engine that was asked for and that Accelerate left out.
    """

    def __init__(
        self,
        *,
        batch_sampler: OneTaskPerBatch,
        evaluation: Callable[[nn.Module], dict[str, float]] | None = None,
        **kwargs: Any,
    ):
        training = kwargs["args"]
        self._counted = CountedProgress(batch_sampler, kwargs["train_dataset"])
        training.per_device_train_batch_size = self._counted.batch_size  # by which the Trainer names and compares batches
        freeze_vision_tower(kwargs["model"], training.learning_rates)
        check_learning(kwargs["model"], training.learning_rates)
        check_checkpointed(kwargs["model"], training.checkpointed_parts)
        save_only_model, training.save_only_model = training.save_only_model, training.save_only_model or training.fully_shard
        # Trainer refuses an `eval_strategy` without eval_dataset; `evaluation` brings its own images, so this one stays empty. It also
        # refuses to save optimizers of a model that is divided; they are saved below.
        super().__init__(eval_dataset=(), **kwargs)
        training.save_only_model = save_only_model
        measures = self.args.eval_strategy != "no" or self.args.eval_on_start
        if evaluation is None and measures:
            raise ValueError(
                f"eval_strategy is {self.args.eval_strategy.value!r}, but nothing is measured: pass `evaluation` (eval_images in the "
                "config of stage 2), or set eval_strategy to 'no' and eval_on_start to false"
            )
        if measures and (self.args.fully_shard or self.is_fsdp_enabled):
            raise ValueError(
                "a model that FSDP divides cannot be measured during training; set eval_strategy: 'no', and measure checkpoints"
            )
        self._check_engine()
        if self.args.fully_shard and not TRAINS_DIVIDED:
            # "Evaluation" leaves out what Accelerate would wrap around a model that nobody has divided.
            self.accelerator.prepare_model = partial(self.accelerator.prepare_model, evaluation_mode=True)
        self.batch_sampler = batch_sampler
        self.evaluation = evaluation
        self._terms: dict[str, list[Tensor]] = defaultdict(list)  # since the last log
        self._images, self._since = 0, time.perf_counter()
        self.is_best_loaded = False
        self._stop = StopOnTerminate()
        self.add_callback(self._stop)
        self.add_callback(self._counted)
        self.add_callback(WholePushes(self.create_model_card))
        if self.args.checkpointed_parts:
            self.add_callback(SomeCheckpointed())
        if self.args.projector_batch_norm == "synchronised":
            psalm = without_adapters(self.model).model
            psalm.projector = nn.SyncBatchNorm.convert_sync_batchnorm(psalm.projector)

    def _check_engine(self) -> None:
        """Accelerate leaves engines out in silence where it cannot run them."""
        if self.args.deepspeed and not self.is_deepspeed_enabled:
            raise ValueError(
                "a DeepSpeed config was given, but DeepSpeed is not running; start with torchrun or accelerate launch, without "
                "ACCELERATE_USE_CPU, and on CPU with DS_ACCELERATOR=cpu"
            )
        if self.is_deepspeed_enabled:
            given = {"optimizer", "scheduler"} & self.accelerator.state.deepspeed_plugin.deepspeed_config.keys()
            if given:
                raise ValueError(
                    f"the DeepSpeed config has its own {' and '.join(sorted(given))}; take them out, learning_rate, learning_rates and "
                    "lr_scheduler_type of the training config say it"
                )
        if self.is_fsdp_enabled and self.args.device.type == "cpu":
            raise ValueError("FSDP of Accelerate does not run on CPU, it would be plain DDP; set fully_shard: true instead")
        if self.is_fsdp_enabled and self.accelerator.state.fsdp_plugin.fsdp_version == 1:
            raise ValueError("FSDP version 1 renames parameters, so that rates by submodule are lost; set fsdp_version: 2")

    @property
    def was_terminated(self) -> bool:
        return self._stop.has_ended_run

    def get_train_dataloader(self) -> DataLoader:
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=self.batch_sampler,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type == "cuda",
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            worker_init_fn=ignore_terminate,
        )
        return self.accelerator.prepare(loader)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            model = self.model if model is None else model
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            groups = parameter_groups(
                model,
                self.args.learning_rate,
                self.args.learning_rates,
                self.args.weight_decay,
                set(self.get_decay_parameter_names(model)),
            )
            self.optimizer = kind(groups, **options)
        return self.optimizer

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        if model.training:
            self._set_modes(without_adapters(self.accelerator.unwrap_model(model)).model)
            torch.manual_seed(batch_seed(inputs, self.args.seed, self.state.global_step))
        outputs = model(**inputs)
        if model.training:
            if outputs.loss is None:
                raise ValueError("a batch of conversations has no answer to learn; every one must end with a message of the assistant")
            kind = ROW_KINDS[int(inputs["condition_type"][0])]
            self._terms[f"{kind}/loss"].append(outputs.loss.detach())
            for name, value in outputs.losses.items():
                if not name[-1].isdigit():  # of the last depth; the earlier ones follow it
                    self._terms[f"{kind}/{name}"].append(value.detach())
            self._images += 0 if inputs.get("pixel_values") is None else len(inputs["pixel_values"])
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def _set_modes(self, model: nn.Module) -> None:
        """Puts frozen parts out of training mode again, into which the Trainer puts everything before every batch."""
        is_frozen = not any(parameter.requires_grad for parameter in model.vision_tower.parameters())
        if not (is_frozen and self.args.frozen_vision_dropout):
            model.vision_tower.eval()  # no drop path
        _freeze_batch_norms(model.vision_tower)
        if self.args.projector_batch_norm == "frozen":
            _freeze_batch_norms(model.projector)

    def evaluate(self, *, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Returns the metrics of `evaluation` as `<metric_key_prefix>_<name>`; they are also logged and told to the callbacks.

        Args:
            ignore_keys: of the Trainer, which asks with it; not read.
        """
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        with kept_random_state():
            measured = self._measure()
        for module, training in modes:
            module.training = training
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def create_model_card(self, **words: Any) -> None:
        """Writes README.md into the output folder, on process 0; `push_to_hub` calls it. Arguments as of `model_card.card_of_run`."""
        if self.is_world_process_zero():
            write_card(self.args.output_dir, card_of_run(self, **words))

    def _measure(self) -> dict[str, float]:
        """Gets the metrics of process 0 on all processes: they decide alike which checkpoint is the best, and when to save it."""
        is_distributed = dist.is_available() and dist.is_initialized()
        if is_distributed:
            for buffer in self.model.buffers():  # batch norms have counted the batches of their process; those of process 0 are saved
                dist.broadcast(buffer, src=0)
        measured = [self.evaluation(self.model)]
        if is_distributed:
            dist.broadcast_object_list(measured, src=0)
        return measured[0]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            logs |= self._mean_terms() | self._speed() | self._own_rates(logs["learning_rate"])
        if "train_runtime" in logs:  # the end of the run
            logs |= self._counted.speed(self.state.global_step, logs["train_runtime"])
        super().log(logs, *args, **kwargs)

    def _own_rates(self, first: float) -> dict[str, float]:
        """Rates of the submodules that have their own, at the step where that of the first group is `first`: one schedule scales all."""
        initial = self.optimizer.param_groups[0].get("initial_lr")
        return {f"learning_rate/{name}": first / initial * rate for name, rate in self.args.learning_rates.items()} if initial else {}

    def _mean_terms(self) -> dict[str, float]:
        """Means of the loss terms of all processes since the last log."""
        names = sorted(self._terms)
        means = torch.stack([torch.stack(self._terms[name]).float().mean() for name in names])
        self._terms.clear()
        return dict(zip(names, (round(value, 4) for value in self.accelerator.reduce(means, "mean").tolist()), strict=True))

    def _speed(self) -> dict[str, float]:
        """Images per second of all processes, and the most memory that one of them has held: of the GPU, or of the process on CPU."""
        now = time.perf_counter()
        if self.args.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.args.device)
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        measured = torch.tensor([self._images / (now - self._since), peak / 2**30], device=self.args.device)
        images, memory = self.accelerator.gather(measured[None]).T
        self._images, self._since = 0, now
        return {"images_per_second": round(images.sum().item(), 2), "memory_gib": round(memory.max().item(), 3)}

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Trains; `resume_from_checkpoint=True` takes the last COMPLETE checkpoint, and batches must be drawn as before."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(self.args.output_dir)
        if resume_from_checkpoint:
            check_schedule(resume_from_checkpoint, self.batch_sampler.schedule)
        self.is_best_loaded = False
        try:
            with only_run(Path(self.args.output_dir)) if self.is_world_process_zero() else nullcontext():
                return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        except BaseException as error:
            # Its frames hold the iterator of the DataLoader, and so its workers. Python would wait for them at its end for ever: it ends
            # processes by SIGTERM, which they ignore.
            self._stop.on_train_end(self.args, self.state, self.control)
            traceback.clear_frames(error.__traceback__)
            raise

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self.is_best_loaded = Path(self.state.best_model_checkpoint).is_dir()  # the Trainer only warns of one that is gone

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # Pushes read the output folder in the background. A file that the next one changes under its hands fails it, in silence.
        if self.args.hub_always_push:
            self._finish_current_push()
        super()._push_from_checkpoint(checkpoint_folder)

    def _finish_current_push(self) -> None:
        super()._finish_current_push()
        if getattr(self, "push_in_progress", None) is not None:  # there is none in a run that is not pushed
            for error in filter(None, (job.exception() for job in self.push_in_progress.jobs)):
                logger.warning("a push to the Hub failed: %s", error)
            self.push_in_progress = None

    # The Trainer shards a model that `from_pretrained` divided, but saves and loads only what process 0 holds.

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if self.args.fully_shard and not TRAINS_DIVIDED and not self.args.should_save:
            self.model.save_pretrained(output_dir or self.args.output_dir, is_main_process=False)  # all processes gather
        super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.args.fully_shard:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        save_sharded_optimizer(self.model, self.optimizer.optimizer, Path(output_dir, "optimizer.pt"), self.args.should_save)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir, "scheduler.pt"))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.args.fully_shard or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        load_sharded_optimizer(self.model, self.optimizer.optimizer, Path(checkpoint, "optimizer.pt"))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint, "scheduler.pt"), weights_only=True))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.args.fully_shard:
            load_sharded_weights(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.args.should_save:
            write_schedule(output_dir, self.batch_sampler.schedule)
        # Process 0 writes the Trainer's state next, by which a checkpoint counts as complete: the others must have written theirs.
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            sync_tree(Path(output_dir))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        state, checkpoint = self.state, Path(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if self.args.should_save:  # one of an earlier run is not complete while it is written over
            (checkpoint / TRAINER_STATE_NAME).unlink(missing_ok=True)
        state.save_to_json = partial(_write_state, state)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            del state.save_to_json


def _write_state(state: TrainerState, path: str) -> None:
    """Writes the Trainer's state whole: it is on the disk before older checkpoints are removed."""
    unfinished = unfinished_path(Path(path))
    TrainerState.save_to_json(state, str(unfinished))
    finish(unfinished, Path(path))


class SomeCheckpointed(TrainerCallback):
    """Keeps activation checkpointing, which the Trainer turns on for all layers, to those of `checkpointed_parts`."""

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: nn.Module, **kwargs: Any) -> None:
        checkpoint_only(model, args.checkpointed_parts)


def batch_seed(inputs: Mapping[str, Any], seed: int, step: int) -> int:
    """Number that follows from a batch, the seed of the run and the optimizer step."""
    parts = [inputs["input_ids"]]
    if inputs.get("pixel_values") is not None:
        parts.append(inputs["pixel_values"][..., ::32, ::32].float())  # prompts may be equal, images are not
    number = zlib.crc32(repr((seed, step)).encode())
    for part in parts:
        number = zlib.crc32(part.cpu().numpy().tobytes(), number)
    return number


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Keeps the random state of Python, numpy, and torch on all devices: after it, random numbers go on as before."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with kept_torch_state():
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def parameter_groups(
    model: nn.Module, rate: float, rates: Mapping[str, float], weight_decay: float, decayed: set[str]
) -> list[dict[str, Any]]:
    """Groups for an optimizer: the parameters that learn, by learning rate and by whether they decay.

    Args:
        rate: of all parameters without one of their own.
        rates: submodule -> its rate; of nested submodules the inner one counts.
        decayed: names of the parameters with weight decay.
    """
    groups: dict[tuple[str, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            owners = [part for part in rates if _is_inside(name, part)]
            groups[max(owners, key=len, default=""), name in decayed].append(parameter)
    return [
        {
            "params": parameters,
            "lr": rates.get(part, rate),
            "weight_decay": weight_decay if is_decayed else 0.0,
        }
        for (part, is_decayed), parameters in sorted(groups.items())  # the common rate first: it is logged as learning_rate
    ]


def freeze_vision_tower(model: nn.Module, rates: Mapping[str, float]) -> None:
    """Freezes the vision tower but for the parts that `rates` names, as in the paper.

    Raises:
        ValueError: a name in `rates` that the model does not have.
    """
    parts = dict.fromkeys(plain_name(name) for name, _ in model.named_modules())
    for name in rates:
        if name not in parts:
            raise ValueError(f"learning_rates: the model has no submodule {name!r}; it has {_some_parts(parts)}, and their parts")
    tower = "model.vision_tower"
    learning = [name for name in rates if _is_inside(name, tower)]
    for name, parameter in model.named_parameters():
        if _is_inside(name, tower) and not any(_is_inside(name, part) for part in learning):
            parameter.requires_grad_(False)


def check_learning(model: nn.Module, rates: Mapping[str, float]) -> None:
    """Refuses rates of what is frozen, and a model of which nothing learns.

    Raises:
        ValueError: naming the rate.
    """
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not learning:
        raise ValueError("nothing learns: every parameter is frozen; the vision tower learns only with a rate of its own (learning_rates)")
    for part in rates:
        if not any(_is_inside(name, part) for name in learning):
            raise ValueError(f"learning_rates: {part} is frozen in this run; leave it out, or let it learn (trainable in stage 1, no lora)")


def check_checkpointed(model: nn.Module, names: Sequence[str]) -> None:
    """Refuses names for `checkpoint_only`.

    Raises:
        ValueError: a submodule that the model does not have, or that has no layer which can be checkpointed.
    """
    parts = dict.fromkeys(plain_name(name) for name, _ in model.named_modules())
    layers = [name for name, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer)]
    for name in names:
        if name not in parts:
            raise ValueError(f"checkpointed_parts: the model has no submodule {name!r}; it has {_some_parts(parts)}, and their parts")
        if not any(_is_inside(layer, name) for layer in layers):
            owners = dict.fromkeys(plain_name(layer).rsplit(".", 2)[0] for layer in layers)
            raise ValueError(f"checkpointed_parts: {name} has no layers that can be checkpointed; {', '.join(owners)} have")


def checkpoint_only(model: nn.Module, names: Sequence[str]) -> None:
    """Turns activation checkpointing off outside of these submodules.

    Args:
        names: as in the state dict, such as "model.language_model"; none leaves all as it is.
    """
    for name, module in model.named_modules():
        if names and hasattr(module, "gradient_checkpointing") and not any(_is_inside(name, part) for part in names):
            module.gradient_checkpointing = False


def train_only(model: nn.Module, names: Sequence[str]) -> None:
    """Freezes every parameter of `model` outside of these submodules.

    Args:
        names: as in the state dict: "model.projector", "lm_head". The vision tower also needs a rate in `learning_rates`.

    Raises:
        ValueError: a name that the model does not have.
    """
    parts = dict(model.named_modules())
    for name in names:
        if name not in parts:
            raise ValueError(f"the model has no submodule {name!r} to train; it has {_some_parts(parts)}, and their parts")
    model.requires_grad_(False)
    for name in names:
        parts[name].requires_grad_(True)


def _is_inside(name: str, part: str) -> bool:
    return f"{plain_name(name)}.".startswith(f"{part}.")


def _some_parts(parts: Collection[str]) -> str:
    return ", ".join(part for part in parts if part and part.count(".") < 2)


def _freeze_batch_norms(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()
