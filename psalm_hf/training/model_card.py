"""The model card (README.md) of a checkpoint: what it is, how to load it, how it was trained, what it reached.

`model_card` makes the text from plain values, `describe_parts` and `describe_run` take them from a model and its Trainer, `write_card`
puts it into a folder without touching what somebody wrote there.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

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
from ..model.compatibility import CHECKPOINTING
from ..model.modeling_psalm import in_plain_class, plain_class
from .lora import without_adapters

logger = logging.getLogger(__name__)

START = "<!-- psalm_hf: generated from here on; the next training run replaces it -->"
END = "<!-- psalm_hf: end of the generated part; text before and after it is kept -->"

TAGS = ("psalm", "promptable-segmentation", "panoptic-segmentation", "referring-image-segmentation", "interactive-segmentation")
EVALUATED_ON = "evaluation during training"
SEGMENT = """\
inputs = processor(images=image, categories=["cup", "table", "wall"], return_tensors="pt")
found = processor.post_process_panoptic_segmentation(model(**inputs), target_sizes=inputs["original_sizes"])[0]
found["segmentation"], found["segments_info"]  # (height, width) int32 with 0 = no segment; what each number is"""
OTHER_CONDITIONS = """\
`expressions=["the red cup"]` and `regions=[{"point": (320, 200)}]` in the place of `categories` are answered by
`post_process_referring_segmentation` and `post_process_region_segmentation`."""
SETTINGS = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "max_steps",
    "optim",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "weight_decay",
    "max_grad_norm",
    "gradient_accumulation_steps",
    CHECKPOINTING,
    "seed",
)


@dataclass(frozen=True)
class Part:
    """One line of the model's inventory. `trained` counts the parameters that the run changed."""

    name: str
    kind: str
    parameters: int
    trained: int


@dataclass(frozen=True)
class Source:
    """Where samples came from. `share` of the optimizer steps, 0 to 1; `per_step` samples of a step, all processes together."""

    name: str
    dataset: str
    share: float
    per_step: int


@dataclass(frozen=True)
class Evaluation:
    """Numbers by name, measured after this many optimizer steps."""

    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class TrainingRun:
    """What a run was.

    Attributes:
        steps: optimizer steps made.
        weights_of_step: those that the weights have seen: `steps`, or fewer where the best checkpoint was loaded at the end.
        settings: as they are to be printed.
        evaluations: in the order in which they were made.
        best: the one that was best by `best_metric`; None where no metric was chosen.
    """

    steps: int
    weights_of_step: int
    sources: Sequence[Source]
    settings: Mapping[str, str]
    evaluations: Sequence[Evaluation] = ()
    best: Evaluation | None = None
    best_metric: str | None = None


def model_card(
    repo: str,
    parts: Sequence[Part],
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
    bases = [base_model] if isinstance(base_model, str) else list(base_model or [])
    place = repo if "/" in repo else "FOLDER_OF_THIS_ADAPTER" if is_adapter else "FOLDER_OF_THIS_MODEL"
    name = repo.rsplit("/", 1)[-1]
    data = ModelCardData(
        license=license,
        library_name="peft" if is_adapter else "psalm_hf",
        pipeline_tag="image-segmentation",
        base_model=base_model,
        tags=[*TAGS, *tags],
        model_name=name,
        eval_results=_eval_results(run) or None,
    )
    if data.eval_results is None:
        data.model_name = None  # a field of its own otherwise
    usage = _adapter_usage(place, bases) if is_adapter else _usage(place)
    sections = [f"# {name}", _introduction(parts, categories_only), usage if categories_only else f"{usage}\n\n{OTHER_CONDITIONS}"]
    sections.append(_parts_table(parts, with_trained=run is not None))
    if run is not None:
        sections += [_sources_table(run), _settings_table(run), _results_table(run)]
    body = "\n\n".join([*sections, _license(license, bases)])
    return f"---\n{data.to_yaml()}\n---\n\n{START}\n\n{body}\n\n{END}\n"


def _introduction(parts: Sequence[Part], categories_only: bool) -> str:
    millions = sum(part.parameters for part in parts) / 1e6
    task = (
        "It takes a picture and category names, and answers with masks."
        if categories_only
        else "It takes a picture and a condition: category names, referring expressions, or points, scribbles, boxes and masks. It answers "
        "with masks, and in conversations with text."
    )
    return (
        f"A PSALM model (Pixelwise SegmentAtion with Large Multi-modal Model, [arXiv:2403.14598](https://arxiv.org/abs/2403.14598)) of "
        f"{millions:,.1f} million parameters. {task}"
    )


def _adapter_usage(place: str, bases: Sequence[str]) -> str:
    return f"""## How to use it

This is an adapter: it needs the model that it was trained on, psalm_hf and peft.

```python
from peft import PeftModel
from psalm_hf import PsalmForSegmentation, PsalmProcessor, load_image

base = PsalmForSegmentation.from_pretrained("{bases[0] if bases else "FOLDER_OF_THE_BASE_MODEL"}")
model = PeftModel.from_pretrained(base, "{place}").eval()
processor = PsalmProcessor.from_pretrained("{place}")
image = load_image("picture.png")
{SEGMENT}
```"""


def _usage(place: str) -> str:
    return f"""## How to use it

With psalm_hf:

```python
from psalm_hf import PsalmForSegmentation, PsalmProcessor, load_image

model = PsalmForSegmentation.from_pretrained("{place}").eval()
processor = PsalmProcessor.from_pretrained("{place}")
image = load_image("picture.png")
{SEGMENT}
```

Without it, by the code that lies in this repository (`trust_remote_code` runs it: read it first, and pin a `revision`):

```python
from PIL import Image
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{place}", trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained("{place}", trust_remote_code=True)
image = Image.open("picture.png").convert("RGB")
{SEGMENT}
```"""


def _parts_table(parts: Sequence[Part], with_trained: bool) -> str:
    whole = Part("all", "", sum(part.parameters for part in parts), sum(part.trained for part in parts))
    columns = ("part", "type", "parameters", "of these trained")
    rows = [(part.name, part.kind, f"{part.parameters:,}", f"{part.trained:,}") for part in (*parts, whole)]
    shown = 4 if with_trained else 3
    return "## Parts\n\n" + _table(columns[:shown], [row[:shown] for row in rows])


def _sources_table(run: TrainingRun) -> str:
    rows = [(source.name, source.dataset, f"{100 * source.share:.3g} %", str(source.per_step)) for source in run.sources]
    return "## Training data\n\n" + _table(("source", "dataset", "share of the steps", "samples per step"), rows)


def _settings_table(run: TrainingRun) -> str:
    seen = "" if run.weights_of_step == run.steps else f"; the weights are those of step {run.weights_of_step:,}, the best by evaluation"
    table = _table(("setting", "value"), [(f"`{name}`", value) for name, value in run.settings.items()])
    return f"## Training\n\nOptimizer steps: {run.steps:,}{seen}.\n\n{table}"


def _results_table(run: TrainingRun) -> str:
    if not run.evaluations:
        return "## Results\n\nNothing was measured during training."
    columns = {f"step {run.evaluations[-1].step:,}": run.evaluations[-1]}
    if run.best is not None:
        columns[f"step {run.best.step:,}"] = run.best
    names = list(dict.fromkeys(name for evaluation in columns.values() for name in evaluation.metrics))
    rows = [(name, *(_number(evaluation.metrics.get(name)) for evaluation in columns.values())) for name in names]
    best = "" if run.best is None else f" The best evaluation by {run.best_metric} was that of step {run.best.step:,}."
    return f"## Results\n\nMeasured during training.{best}\n\n" + _table(("metric", *columns), rows)


def _license(license: str | None, bases: Sequence[str]) -> str:
    of_others = " and of ".join(["the licences of the data", *(f"[{base}](https://huggingface.co/{base})" for base in bases)])
    if license is None:
        return f"## Licence\n\nNo licence was stated for these weights. They depend on {of_others}; ask whoever published them."
    return f"## Licence\n\n{license}. Mind also {of_others}."


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _number(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.4g}"


def _eval_results(run: TrainingRun | None) -> list[EvalResult]:
    """Of the weights that the card describes. The Hub takes finite numbers only."""
    if run is None:
        return []
    measured = next((evaluation for evaluation in reversed(run.evaluations) if evaluation.step == run.weights_of_step), None)
    return [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=EVALUATED_ON.replace(" ", "-"),
            dataset_name=EVALUATED_ON,
            metric_type=name,
            metric_name=name,
            metric_value=round(float(value), 4),
        )
        for name, value in (measured.metrics.items() if measured else ())
        if math.isfinite(value)
    ]


def describe_parts(model: nn.Module) -> list[Part]:
    """The inventory of a `PsalmForSegmentation`, also inside of adapters: parameters by submodule, shared ones counted once, and of what
    peft trains a copy of, the copy."""
    psalm = without_adapters(model)
    modules = {f"model.{name}": module for name, module in psalm.model.named_children()}
    modules |= {name: module for name, module in psalm.named_children() if name != "model"}
    counted: set[int] = set()
    parts = []
    for name, module in modules.items():
        new = [parameter for parameter in _parameters(module) if id(parameter) not in counted]
        counted |= {id(parameter) for parameter in new}
        trained = [parameter for parameter in new if parameter.requires_grad]
        kind = plain_class(_trained_copy(module) or module).__name__
        if hasattr(module, "config"):
            kind = f"{module.config.model_type} ({kind})"
        parts.append(Part(name, kind, sum(map(_size, new)), sum(map(_size, trained))))
    return parts


def _parameters(module: nn.Module) -> list[nn.Parameter]:
    wrappers = [part for part in module.modules() if _trained_copy(part) is not None]
    set_aside = {id(parameter) for wrapper in wrappers for parameter in wrapper.original_module.parameters()}
    return [parameter for parameter in module.parameters() if id(parameter) not in set_aside]


def _trained_copy(module: nn.Module) -> nn.Module | None:
    """What peft's `ModulesToSaveWrapper` computes with, in the place of `original_module`; None for any other module."""
    copies = getattr(module, "modules_to_save", None)
    return next(iter(copies.values())) if isinstance(copies, nn.ModuleDict) else None


def _size(parameter: nn.Parameter) -> int:
    return getattr(parameter, "ds_numel", parameter.numel())  # under ZeRO-3 a process holds a slice, and DeepSpeed knows the whole


def describe_run(trainer: Any) -> TrainingRun:
    """What a `PsalmTrainer` has done so far."""
    args, state, sampler = trainer.args, trainer.state, trainer.batch_sampler
    total = sum(sampler.weights.values())
    per_step = args.world_size * args.gradient_accumulation_steps
    sources = [
        Source(name, describe_source(trainer.train_dataset.sources[name]), weight / total, sampler.batch_sizes[name] * per_step)
        for name, weight in sampler.weights.items()
        if weight
    ]
    evaluations = _evaluations(state.log_history)
    best = next((evaluation for evaluation in evaluations if evaluation.step == state.best_global_step), None)
    return TrainingRun(
        steps=state.global_step,
        weights_of_step=state.best_global_step if trainer.is_best_loaded else state.global_step,
        sources=sources,
        settings=_settings(trainer),
        evaluations=evaluations,
        best=best,
        best_metric=args.metric_for_best_model,
    )


def describe_source(source: Any) -> str:
    """Dataset and split of a source of `TaskSources`; the class where it is none of ours."""
    if isinstance(source, ShapesStream):
        return f"shapes, {source.task}, {source.split}"
    rows = getattr(getattr(source, "dataset", None), "rows", None)
    return type(source).__name__ if rows is None else f"{rows.info.config_name}, {rows.split}"


def _evaluations(history: Sequence[Mapping[str, Any]]) -> list[Evaluation]:
    by_step: dict[int, dict[str, float]] = {}
    for entry in history:
        metrics = {name.removeprefix("eval_"): value for name, value in entry.items() if name.startswith("eval_")}
        if metrics:
            by_step.setdefault(entry["step"], {}).update(metrics)
    return [Evaluation(step, metrics) for step, metrics in by_step.items()]


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
    """The card of what a `PsalmTrainer` trains; arguments as of `PsalmTrainer.create_model_card`."""
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
    """A model's name if it is one of the Hub; the Hub refuses folders, and they are nobody's business."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name if "/" in name and not Path(name).exists() else None


def write_card(folder: str | Path, card: str) -> None:
    """Writes README.md, and keeps what somebody wrote there.

    Of a card that was generated before, the part between `START` and `END` is replaced; the text around it stays, and so does metadata,
    except for a licence that is stated now and for the results of the run. Any other README.md stays as it is, with a warning; template
    cards that nobody has filled in are replaced.

    Args:
        card: of `model_card`.

    Raises:
        ValueError: the metadata of the README.md that is there cannot be read.
    """
    path = Path(folder) / "README.md"
    existing = _read_card(path)
    if existing is None or _is_empty_template(existing):
        path.write_text(card, encoding="utf-8")
    elif existing.text.count(START) == existing.text.count(END) == 1 and existing.text.index(START) < existing.text.index(END):
        path.write_text(_merge(ModelCard(card), existing), encoding="utf-8")
    else:
        logger.warning(
            "%s was not generated here and stays as it is: the results of this run are not in it. Move it away for a generated card, or "
            "put these two lines where the generated part shall stand:\n%s\n%s",
            path,
            START,
            END,
        )


def _read_card(path: Path) -> ModelCard | None:
    """The card, without a `base_model` that is a folder: peft enters it so."""
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
    """Whether it is huggingface_hub's template as it comes, such as peft writes it beside an adapter."""
    template = ModelCard.from_template(ModelCardData()).text.splitlines()
    added = set(card.text.splitlines()) - set(template)
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
    """Pushes during training also carry the card and the code of the model.

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
