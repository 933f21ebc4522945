"""Model card (README.md) of a checkpoint: what it is, how to load it, how it was trained, what it reached.

The text is `model_card.jinja`, a Jinja template. `model_card` fills it in, `describe_parts` and `describe_run` take the values from a model
and its Trainer, `write_card` puts the card into a folder and keeps what somebody wrote there.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
import yaml
from accelerate.utils import DistributedType
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from torch import nn
from transformers import TrainerCallback, TrainingArguments
from transformers.dynamic_module_utils import custom_object_save

from .. import __version__
from ..data.shapes.stream import ShapesStream
from ..domain import DRAWN_SHAPES, extended_domain
from ..model.compatibility import CHECKPOINTING
from ..model.modeling_psalm import in_plain_class, plain_class
from ..writing import write_file
from .lora import without_adapters

logger = logging.getLogger(__name__)

TEMPLATE = Path(__file__).with_name("model_card.jinja")
START = "<!-- psalm_hf: generated from here on; the next training run replaces it -->"
END = "<!-- psalm_hf: end of the generated part; text before and after it is kept -->"
TAGS = ("psalm", "promptable-segmentation", "panoptic-segmentation", "referring-image-segmentation", "interactive-segmentation")
EVALUATED_ON = "evaluation during training"
# Fields of TrainingArguments that the card shows, besides those that are ours.
SETTINGS = ("learning_rate", "lr_scheduler_type", "warmup_steps", "max_steps", "optim", "adam_beta1", "adam_beta2", "adam_epsilon")
SETTINGS += ("weight_decay", "max_grad_norm", "gradient_accumulation_steps", CHECKPOINTING, "seed")


class ModelPart(NamedTuple):
    """Line of the model's inventory; `trained` counts the parameters that the run changed."""

    name: str
    kind: str
    parameters: int
    trained: int


class TrainedSource(NamedTuple):
    """Source of samples: its `share` of the optimizer steps, 0 to 1, and its samples of a step, all processes together."""

    name: str
    dataset: str
    share: float
    per_step: int


class StepMetrics(NamedTuple):
    """Metrics by name, computed after this many optimizer steps."""

    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class TrainingRun:
    """Record of a run.

    Attributes:
        steps: optimizer steps made.
        weights_of_step: steps that the weights have seen: `steps`, or fewer where the best checkpoint was loaded at the end.
        sources: where samples came from.
        settings: name -> value, as they are printed.
        evaluations: in the order in which they were made.
        best: the one that was best by `best_metric`; None where no metric was chosen.
    """

    steps: int
    weights_of_step: int
    sources: Sequence[TrainedSource]
    settings: Mapping[str, str]
    evaluations: Sequence[StepMetrics] = ()
    best: StepMetrics | None = None
    best_metric: str | None = None


def model_card(
    repo: str,
    parts: Sequence[ModelPart],
    run: TrainingRun | None = None,
    *,
    license: str | None = None,
    base_model: str | Sequence[str] | None = None,
    tags: Sequence[str] = (),
    is_adapter: bool = False,
    categories_only: bool = False,
) -> str:
    """Text of a README.md: metadata for the Hub, then the generated part between `START` and `END`.

    Args:
        repo: Hub id, from which the code of the card loads; for a model that is on no Hub its name, without "/".
        parts: of the model, see `describe_parts`.
        run: how it was trained, see `describe_run`; None leaves this out.
        license: identifier of the Hub, such as "apache-2.0"; None = the card says that none was stated.
        base_model: Hub id of the model that it started from, or several.
        tags: besides those of every PSALM.
        is_adapter: the folder holds an adapter for peft.
        categories_only: a model with `decouple_masks=False`, which knows no other condition.
    """
    name, results = repo.rsplit("/", 1)[-1], _hub_results(run)
    data = ModelCardData(
        license=license,
        library_name="peft" if is_adapter else "psalm_hf",
        pipeline_tag="image-segmentation",
        base_model=base_model,
        tags=[*TAGS, *tags],
        model_name=name if results else None,  # without results it would be a field of its own
        eval_results=results or None,
    )
    shown = {each.step: each.metrics for each in ((*run.evaluations[-1:], run.best) if run else ()) if each}
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        start=START,
        end=END,
        name=name,
        place=repo if "/" in repo else "FOLDER_OF_THIS_ADAPTER" if is_adapter else "FOLDER_OF_THIS_MODEL",
        parts=[*parts, ModelPart("all", "", sum(part.parameters for part in parts), sum(part.trained for part in parts))],
        run=run,
        columns=[f"step {step:,}" for step in shown],
        results=[
            [metric, *(_number(metrics.get(metric)) for metrics in shown.values())]
            for metric in dict.fromkeys(metric for metrics in shown.values() for metric in metrics)
        ],
        license=license,
        bases=[base_model] if isinstance(base_model, str) else base_model or [],
        is_adapter=is_adapter,
        categories_only=categories_only,
    )
    return f"{card}\n"


def _number(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.4g}"


def _hub_results(run: TrainingRun | None) -> list[EvalResult]:
    """Metrics of the weights that the card describes. The Hub takes finite numbers only."""
    evaluations = run.evaluations if run else ()
    metrics = next((each.metrics for each in reversed(evaluations) if each.step == run.weights_of_step), {})
    common = {"task_type": "image-segmentation", "dataset_type": EVALUATED_ON.replace(" ", "-"), "dataset_name": EVALUATED_ON}
    return [
        EvalResult(**common, metric_type=name, metric_name=name, metric_value=round(float(value), 4))
        for name, value in metrics.items()
        if math.isfinite(value)
    ]


def describe_parts(model: nn.Module) -> list[ModelPart]:
    """Inventory of a `PsalmForSegmentation`, also inside of adapters: parameters by submodule. Shared ones are counted once, and of a
    module that peft trains a copy of, the copy."""
    psalm = without_adapters(model)
    modules = {f"model.{name}": module for name, module in psalm.model.named_children()}
    modules |= {name: module for name, module in psalm.named_children() if name != "model"}
    sizes = {name: [0, 0] for name in modules}
    for name, parameter in psalm.named_parameters():
        if ".original_module." not in name:
            part = next(part for part in modules if name.startswith(f"{part}."))
            size = getattr(parameter, "ds_numel", parameter.numel())  # under ZeRO-3 a process holds a slice, DeepSpeed knows the whole
            sizes[part][0] += size
            sizes[part][1] += size * parameter.requires_grad
    return [ModelPart(name, _kind(module), *sizes[name]) for name, module in modules.items()]


def _kind(module: nn.Module) -> str:
    kind = plain_class(getattr(module, "original_module", module)).__name__  # peft wraps the modules that it trains copies of
    return f"{module.config.model_type} ({kind})" if hasattr(module, "config") else kind


def describe_run(trainer: Any) -> TrainingRun:
    """Record of what a `PsalmTrainer` has done so far."""
    args, state, sampler = trainer.args, trainer.state, trainer.batch_sampler
    total = sum(sampler.weights.values())
    per_step = args.world_size * args.gradient_accumulation_steps
    metrics: dict[int, dict[str, float]] = {}
    for entry in state.log_history:
        if found := {name.removeprefix("eval_"): value for name, value in entry.items() if name.startswith("eval_")}:
            metrics.setdefault(entry["step"], {}).update(found)
    evaluations = [StepMetrics(*each) for each in metrics.items()]
    return TrainingRun(
        steps=state.global_step,
        weights_of_step=state.best_global_step if trainer.is_best_loaded else state.global_step,
        sources=[
            TrainedSource(name, describe_source(trainer.train_dataset.sources[name]), weight / total, sampler.batch_sizes[name] * per_step)
            for name, weight in sampler.weights.items()
            if weight
        ],
        settings=_settings(trainer),
        evaluations=evaluations,
        best=next((each for each in evaluations if each.step == state.best_global_step), None),
        best_metric=args.metric_for_best_model,
    )


def state_domain(trainer: Any) -> None:
    """Writes into the configuration of the model, with which every checkpoint of a `PsalmTrainer` is saved, what it is trained on."""
    drawn = [trainer.train_dataset.sources[name] for name, weight in trainer.batch_sampler.weights.items() if weight]
    kinds = [DRAWN_SHAPES if isinstance(source, ShapesStream) else describe_source(source).split(",")[0] for source in drawn]
    config = without_adapters(trainer.model).config
    config.domain = extended_domain(config.domain, kinds)


def describe_source(source: Any) -> str:
    """Dataset and split of a source of `TaskSources`; the class where it is none of ours."""
    if isinstance(source, ShapesStream):
        return f"shapes, {source.task}, {source.split}"
    rows = getattr(getattr(source, "dataset", None), "rows", None)
    return type(source).__name__ if rows is None else f"{rows.info.config_name}, {rows.split}"


def _settings(trainer: Any) -> dict[str, str]:
    args = trainer.args
    standard = {field.name for field in fields(TrainingArguments)}
    ours = [field.name for field in fields(args) if field.name not in standard]
    values = {name: getattr(args, name) for name in (*SETTINGS, *ours)}
    precision = trainer.accelerator.mixed_precision  # of an accelerate config too, of which `args` know nothing
    values |= {
        "precision": "fp32" if precision == "no" else precision,
        "engine": _engine(trainer),
        "processes": args.world_size,
        "device": torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type,
        "versions": f"psalm_hf {__version__}, transformers {transformers.__version__}, torch {torch.__version__}",
    }
    return {name: _printed(value) for name, value in values.items()}


def _printed(value: Any) -> str:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=math.inf).removesuffix("...\n").strip()


def _engine(trainer: Any) -> str:
    kind = trainer.accelerator.distributed_type
    if kind == DistributedType.DEEPSPEED:
        return f"DeepSpeed ZeRO-{trainer.accelerator.state.deepspeed_plugin.zero_stage}"
    if kind == DistributedType.FSDP:
        return "FSDP"
    if trainer.args.fully_shard:
        return "fully_shard"
    return "one process" if trainer.args.world_size == 1 else "DDP"


def card_of_run(
    trainer: Any,
    *,
    model_name: str | None = None,
    license: str | None = None,
    tags: str | Sequence[str] | None = None,
    finetuned_from: str | None = None,
) -> str:
    """Card of what a `PsalmTrainer` trains.

    Args:
        model_name: in the card, where there is no Hub id; default the name of the output folder.
        license: identifier of the Hub, such as "apache-2.0"; default what a README.md in the output folder says.
        tags: besides those of every PSALM.
        finetuned_from: Hub id of the model that the run started from; default the one that the model was loaded from.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    existing = _read_card(Path(trainer.args.output_dir) / "README.md")
    stated = ModelCardData() if existing is None else existing.data
    return model_card(
        trainer.hub_model_id or model_name or Path(trainer.args.output_dir).absolute().name,
        describe_parts(model),
        describe_run(trainer),
        license=license or stated.license,
        base_model=finetuned_from or stated.base_model or _hub_id(model.config.name_or_path),
        tags=[tags] if isinstance(tags, str) else tags or [],
        is_adapter=hasattr(model, "peft_config"),
        categories_only=not model.config.decouple_masks,
    )


def _hub_id(name: str) -> str | None:
    """Name of a model if it is one of the Hub; the Hub refuses folders, and they are nobody's business."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name if "/" in name and not Path(name).exists() else None


def write_card(folder: str | Path, card: str) -> None:
    """Writes README.md, and keeps what somebody wrote there.

    In a card that was generated before, the part between `START` and `END` is replaced. The text around it stays, and so does metadata,
    except for a licence that is stated now and for the results of the run. Template cards that nobody has filled in are replaced. Any
    other README.md stays as it is, with a warning.

    Args:
        card: of `model_card`.

    Raises:
        ValueError: the metadata of the README.md that is there cannot be read.
    """
    path = Path(folder) / "README.md"
    existing = _read_card(path)
    if existing is None or _is_empty_template(existing):
        write_file(path, lambda file: file.write(card.encode("utf-8")))
    elif existing.text.count(START) == existing.text.count(END) == 1 and existing.text.index(START) < existing.text.index(END):
        merged = _merge(ModelCard(card), existing)
        write_file(path, lambda file: file.write(merged.encode("utf-8")))
    else:
        logger.warning(
            "%s was not generated here and stays as it is: the results of this run are not in it. Move it away for a generated card, or "
            "put these two lines where the generated part shall stand:\n%s\n%s",
            *(path, START, END),
        )


def _read_card(path: Path) -> ModelCard | None:
    """Card of a file, without a `base_model` that is a folder: peft enters it so."""
    if not path.exists():
        return None
    try:
        card = ModelCard(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: its metadata (between the lines ---) cannot be read, correct it and push again: {error}") from error
    if isinstance(card.data.base_model, str):
        card.data.base_model = _hub_id(card.data.base_model)
    return card


def _is_empty_template(card: ModelCard) -> bool:
    """True for huggingface_hub's template as it comes, such as peft writes it beside an adapter."""
    added = set(card.text.splitlines()) - set(ModelCard.from_template(ModelCardData()).text.splitlines())
    return all(line.startswith(("- PEFT ", "### Framework versions")) for line in added if line.strip())


def _merge(new: ModelCard, old: ModelCard) -> str:
    generated = new.text[new.text.index(START) : new.text.index(END)]
    text = old.text[: old.text.index(START)] + generated + old.text[old.text.index(END) :]

    merged = new.data.__dict__ | {name: value for name, value in old.data.__dict__.items() if value is not None}
    merged["license"] = new.data.license or old.data.license
    merged["base_model"] = new.data.base_model or old.data.base_model
    # peft enters the base model in a tag too, as a folder where it was one.
    tags = [tag for tag in old.data.tags or [] if not tag.startswith("base_model:")]
    merged["tags"] = list(dict.fromkeys([*tags, *(new.data.tags or [])]))
    of_others = [result for result in old.data.eval_results or [] if result.dataset_name != EVALUATED_ON]
    results = of_others + (new.data.eval_results or [])
    merged |= {"eval_results": results or None, "model_name": (old.data.model_name or new.data.model_name) if results else None}
    return f"---\n{ModelCardData(**merged).to_yaml()}\n---\n{text}"


class WholePushes(TrainerCallback):
    """Adds the card and the code of the model to pushes during training.

    The Trainer writes the card at the end only, and copies weights and configuration out of a checkpoint, but not the modules that
    `trust_remote_code` needs: what a run that is killed has pushed would not load without psalm_hf.

    Args:
        write_card: `PsalmTrainer.create_model_card`.
    """

    def __init__(self, write_card: Callable[[], None]):
        self.write_card = write_card

    def on_push_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        if state.is_world_process_zero:
            self.write_card()
            if not hasattr(model, "peft_config"):  # an adapter lies beside no code
                with in_plain_class(model):
                    custom_object_save(model, args.output_dir)
