"""The model card: what it says of a run, on paper, and that nothing is lost of what somebody wrote into a README.md."""

import json
import logging
import math
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import TrainerCallback

from psalm_hf import PsalmForSegmentation
from psalm_hf.data import load
from psalm_hf.data.mixture import EndlessEpochs
from psalm_hf.data.shapes.stream import ShapesStream
from psalm_hf.tiny import build_tiny
from psalm_hf.training.lora import LoraOptions, add_adapters
from psalm_hf.training.model_card import (
    END,
    START,
    ModelPart,
    StepMetrics,
    TrainedSource,
    TrainingRun,
    card_of_run,
    describe_parts,
    describe_run,
    describe_source,
    model_card,
    write_card,
)
from tests.training.test_trainer import Evaluation as Scores
from tests.training.test_trainer import trainer

PARTS = [ModelPart("model.vision_tower", "swin", 1_500_000, 0), ModelPart("lm_head", "Linear", 500_000, 500_000)]


def run(*evaluations, steps=20, **changes):
    options = {
        "sources": [TrainedSource("panoptic", "coco_panoptic, train", 0.75, 64), TrainedSource("chat", "llava, train", 0.25, 16)],
        "settings": {"learning_rate": "6e-05", "engine": "DeepSpeed ZeRO-2"},
        "evaluations": evaluations,
    }
    return TrainingRun(**({"steps": steps, "weights_of_step": steps} | options | changes))


def metadata(card):
    return yaml.safe_load(card.split("---\n")[1])


def results(card):
    """Metric -> value of the metadata."""
    return {metric["name"]: metric["value"] for result in metadata(card)["model-index"][0]["results"] for metric in result["metrics"]}


def test_the_card_says_what_was_trained_on_what_and_how():
    card = model_card("me/kitchen", PARTS, run(steps=1200), license="mit", base_model="them/start", tags=["kitchen"])
    for line in [
        "# kitchen",
        "| model.vision_tower | swin | 1,500,000 | 0 |",
        "| all |  | 2,000,000 | 500,000 |",
        "| panoptic | coco_panoptic, train | 75 % | 64 |",
        "| chat | llava, train | 25 % | 16 |",
        "Optimizer steps: 1,200.",
        "| `learning_rate` | 6e-05 |",
        "| `engine` | DeepSpeed ZeRO-2 |",
        "Nothing was measured during training.",
        "mit. Mind also the licences of the data and of [them/start](https://huggingface.co/them/start).",
    ]:
        assert line in card.splitlines(), line
    assert "of 2.0 million parameters" in card
    header = metadata(card)
    assert header | {"tags": None} == {
        "license": "mit",
        "library_name": "psalm_hf",
        "pipeline_tag": "image-segmentation",
        "base_model": "them/start",
        "tags": None,
    }
    assert "psalm" in header["tags"] and "kitchen" in header["tags"]


def test_a_card_without_run_licence_and_base_says_so_and_has_no_columns_of_training():
    card = model_card("me/kitchen", PARTS)
    assert "| lm_head | Linear | 500,000 |" in card.splitlines() and "## Training" not in card
    assert "No licence was stated" in card and not {"license", "base_model", "model-index", "model_name"} & metadata(card).keys()


def test_last_and_best_evaluation_stand_side_by_side_and_the_hub_gets_those_of_the_weights():
    first, last = StepMetrics(10, {"PQ": 41.25, "cIoU|val": 50.0}), StepMetrics(20, {"PQ": 40.0, "cIoU|val": 52.123456})
    card = model_card("me/kitchen", PARTS, run(first, last, best=first, best_metric="PQ"))
    assert "| metric | step 20 | step 10 |\n| --- | --- | --- |\n| PQ | 40 | 41.25 |\n| cIoU\\|val | 52.12 | 50 |" in card
    assert "best evaluation by PQ was that of step 10" in card
    assert results(card) == {"PQ": 40.0, "cIoU|val": 52.1235}
    card = model_card("me/kitchen", PARTS, run(first, last, best=first, best_metric="PQ", weights_of_step=10))
    assert results(card) == {"PQ": 41.25, "cIoU|val": 50.0}
    assert "Optimizer steps: 20; the weights are those of step 10, the best by evaluation." in card


def test_numbers_that_are_none_or_of_other_weights_do_not_reach_the_hub():
    card = model_card("me/kitchen", PARTS, run(StepMetrics(20, {"PQ": math.nan, "SQ": math.inf, "RQ": 3.0})))
    assert results(card) == {"RQ": 3.0} and "| PQ |  |" in card
    card = model_card("me/kitchen", PARTS, run(StepMetrics(10, {"PQ": 41.0})))
    assert "| PQ | 41 |" in card and "model-index" not in metadata(card)


def test_an_adapter_is_loaded_onto_its_base():
    card = model_card("me/adapter", PARTS, base_model="them/start", is_adapter=True)
    assert 'from_pretrained("them/start")' in card and 'PeftModel.from_pretrained(base, "me/adapter")' in card
    assert metadata(card)["library_name"] == "peft" and "AutoModel" not in card


@pytest.mark.parametrize("tied", [False, True])
def test_parts_add_up_to_the_model(tied):
    model, _ = build_tiny(tie_word_embeddings=tied)
    model.model.vision_tower.requires_grad_(False)
    parts = describe_parts(model)
    assert sum(part.parameters for part in parts) == sum(parameter.numel() for parameter in model.parameters())
    trained = {part.name: part.trained for part in parts}
    assert trained["model.vision_tower"] == 0 and trained["mask_decoder"] > 0
    assert next(part.kind for part in parts if part.name == "model.language_model") == "phi (PhiModel)"


def test_parts_under_adapters_are_counted_once_and_named_as_without():
    model, processor = build_tiny()
    plain = {part.name: part for part in describe_parts(model)}
    with_adapters = add_adapters(model, processor, LoraOptions(rank=2))
    found = {part.name: part for part in describe_parts(with_adapters)}
    assert {name: part.kind for name, part in found.items()} == {name: part.kind for name, part in plain.items()}
    language = plain["model.language_model"]
    layers = [layer for layer in with_adapters.modules() if hasattr(layer, "lora_A") and "default" in layer.lora_A]
    adapters = sum(2 * (layer.in_features + layer.out_features) for layer in layers)
    row = model.config.text_config.hidden_size  # of [SEG], beside the embeddings
    assert len(layers) > 0 and found["model.language_model"].trained == adapters + row
    assert found["model.language_model"].parameters == language.parameters + adapters + row
    for name in plain.keys() - {"model.language_model"}:
        assert found[name].parameters == plain[name].parameters
    assert found["mask_decoder"].trained == plain["mask_decoder"].parameters and found["model.vision_tower"].trained == 0


def test_sources_are_named_by_dataset_and_split(tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "0.png")
    row = {"image": "0.png", "conversation": [{"role": "assistant", "content": "a star"}]}
    (tmp_path / "train.jsonl").write_text(json.dumps(row), encoding="utf-8")
    samples = load("own_jsonl", split="train", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert describe_source(EndlessEpochs(samples, seed=0)) == "own_jsonl, train"
    assert describe_source(ShapesStream(task="referring")) == "shapes, referring, train"
    assert describe_source([]) == "list"


class OnSave(TrainerCallback):
    """Looks whenever a checkpoint has been saved, which is when the Trainer pushes during training."""

    def __init__(self, look):
        self.look, self.seen = look, []

    def on_save(self, args, state, control, **_):
        self.seen.append(self.look())


def test_a_run_is_described_by_what_its_trainer_did(tmp_path):
    options = {"max_steps": 2, "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "referring cIoU, all"}
    trained = trainer(tmp_path, Scores(30.0, 20.0), **options, **best)
    while_saving = OnSave(lambda: describe_run(trained).weights_of_step)
    trained.add_callback(while_saving)
    trained.train()
    assert while_saving.seen == [1, 2]  # pushed are those that were just saved
    found = describe_run(trained)
    scores = "referring cIoU, all"
    assert found.evaluations == [StepMetrics(1, {scores: 30.0}), StepMetrics(2, {scores: 20.0})]
    assert (found.steps, found.weights_of_step, found.best, found.best_metric) == (2, 1, StepMetrics(1, {scores: 30.0}), scores)
    assert found.sources[1] == TrainedSource("referring", "shapes, referring, train", 0.25, 2)
    expected = {"learning_rate": "0.001", "max_steps": "2", "learning_rates": "{}", "engine": "one process", "precision": "fp32"}
    assert found.settings.items() >= expected.items()


def test_precision_is_what_the_engine_computes_in(tmp_path, monkeypatch):
    trained = trainer(tmp_path)
    monkeypatch.setattr(type(trained.accelerator), "mixed_precision", "bf16")  # as from an accelerate config; the arguments say nothing
    assert not trained.args.bf16 and describe_run(trained).settings["precision"] == "bf16"


def test_code_of_a_model_without_a_hub_id_has_a_placeholder(tmp_path):
    card = card_of_run(trainer(tmp_path / "kitchen"))
    assert "# kitchen" in card and 'from_pretrained("FOLDER_OF_THIS_MODEL")' in card and '"kitchen"' not in card
    assert 'PeftModel.from_pretrained(base, "FOLDER_OF_THIS_ADAPTER")' in model_card("kitchen", PARTS, is_adapter=True)


def test_a_model_that_knows_categories_alone_promises_nothing_else(tmp_path):
    trained = trainer(tmp_path)
    assert "expressions" in card_of_run(trained)
    trained.model.config.decouple_masks = False
    card = card_of_run(trained)
    assert "It takes a picture and category names, and answers with masks." in card and 'categories=["cup"' in card
    assert not any(word in card for word in ("expressions", "scribbles", "conversations", "post_process_referring"))


def test_several_base_models_of_a_readme_are_kept(tmp_path):
    (tmp_path / "README.md").write_text(f"---\nbase_model: [us/start, us/other]\n---\n{START}\n{END}\n")
    trained = trainer(tmp_path)
    trained.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert metadata(card)["base_model"] == ["us/start", "us/other"]
    assert "of the data and of [us/start](https://huggingface.co/us/start) and of [us/other]" in card


def test_the_card_of_a_run_takes_its_words_from_the_call_then_from_the_readme_then_from_the_model(tmp_path):
    trained = trainer(tmp_path)
    trained.model.config.name_or_path = "them/start"
    assert metadata(card_of_run(trained))["base_model"] == "them/start"
    (tmp_path / "README.md").write_text(f"---\nlicense: apache-2.0\nbase_model: us/start\n---\n{START}\n{END}\n")
    assert {"license": "apache-2.0", "base_model": "us/start"}.items() <= metadata(card_of_run(trained)).items()
    stated = metadata(card_of_run(trained, license="mit", finetuned_from="we/start", tags="kitchen"))
    assert {"license": "mit", "base_model": "we/start"}.items() <= stated.items() and "kitchen" in stated["tags"]


def test_a_folder_is_no_base_model_and_its_path_is_not_told(tmp_path):
    model, _ = build_tiny()
    model.save_pretrained(tmp_path / "start")
    trained = trainer(tmp_path / "run")
    trained.model.config.name_or_path = PsalmForSegmentation.from_pretrained(tmp_path / "start").config.name_or_path
    assert str(tmp_path) not in card_of_run(trained)


@pytest.mark.parametrize("earlier", [False, True])
def test_what_peft_writes_beside_an_adapter_becomes_a_card_without_paths(tmp_path, earlier):
    trained = trainer(tmp_path)
    trained.model.name_or_path = trained.model.config.name_or_path = str(tmp_path / "start")
    trained.model = get_peft_model(trained.model, LoraConfig(r=2, target_modules=["q_proj"]))
    if earlier:
        trained.create_model_card()
    trained.save_model()
    assert str(tmp_path / "start") in (tmp_path / "README.md").read_text()
    trained.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert START in card and "PeftModel.from_pretrained" in card and str(tmp_path) not in card
    assert metadata(card)["library_name"] == "peft" and "base_model" not in metadata(card)


def test_only_process_0_writes(tmp_path):
    trained = trainer(tmp_path)
    trained.is_world_process_zero = lambda: False
    trained.create_model_card()
    assert not (tmp_path / "README.md").exists()


# ------------------------------------------------------------------------------------------------------------ what others wrote


def test_a_new_card_replaces_the_generated_part_and_keeps_the_rest(tmp_path):
    path = tmp_path / "README.md"
    write_card(tmp_path, model_card("me/kitchen", PARTS, run(StepMetrics(20, {"PQ": 1.0}))))
    by_hand = path.read_text().replace(START, f"Written before.\n\n{START}").replace("psalm_hf\n", "psalm_hf\nlanguage: en\n", 1)
    own = {"task": {"type": "x"}, "dataset": {"name": "mine", "type": "mine"}, "metrics": [{"type": "y", "value": 5.0, "name": "y"}]}
    header = yaml.safe_load(by_hand.split("---\n")[1])
    header["model-index"][0]["results"].append(own)
    header |= {"tags": ["mine"], "pipeline_tag": "mask-generation"}
    by_hand = f"---\n{yaml.safe_dump(header)}---\n" + by_hand.split("---\n", 2)[2] + "\n## Limits\n\n---\n\nWritten after.\n"
    path.write_text(by_hand)

    new = model_card("me/kitchen", PARTS, run(StepMetrics(40, {"PQ": 2.0}), steps=40), license="mit")
    write_card(tmp_path, new)
    card = path.read_text()
    assert card.index("Written before.") < card.index(START) < card.index("# kitchen") < card.index(END) < card.index("## Limits")
    assert card.endswith("## Limits\n\n---\n\nWritten after.\n") and "step 20" not in card and "| PQ | 2 |" in card
    assert results(card) == {"PQ": 2.0, "y": 5.0}
    header = metadata(card)
    assert {"license": "mit", "language": "en", "pipeline_tag": "mask-generation"}.items() <= header.items()
    assert header["tags"][0] == "mine" and "psalm" in header["tags"]

    write_card(tmp_path, new)
    assert path.read_text() == card


def test_a_readme_by_hand_stays_as_it_is_and_a_warning_says_so(tmp_path, caplog):
    path = tmp_path / "README.md"
    for text in ("# Mine\n", "", f"# Mine\n{END}\n{START}\n"):
        path.write_text(text or "---\nlicense: mit\n---\nMine.\n")
        before = path.read_text()
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="psalm_hf"):
            write_card(tmp_path, model_card("me/kitchen", PARTS))
        assert path.read_text() == before
        assert f"{path} was not generated here" in caplog.text and START in caplog.text


def test_two_lines_in_a_readme_by_hand_take_the_generated_part(tmp_path):
    (tmp_path / "README.md").write_text(f"# Mine\n\n{START}\n{END}\n")
    write_card(tmp_path, model_card("me/kitchen", PARTS))
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\n") and card.index("# Mine") < card.index("# kitchen") and metadata(card)["library_name"] == "psalm_hf"


def test_an_empty_template_is_replaced_and_one_that_was_filled_in_is_not(tmp_path):
    path = tmp_path / "README.md"
    template = str(ModelCard.from_template(ModelCardData(library_name="peft"))) + "\n### Framework versions\n\n- PEFT 0.19.0\n"
    path.write_text(template)
    write_card(tmp_path, model_card("me/kitchen", PARTS))
    assert "# kitchen" in path.read_text()
    path.write_text(template + "It finds cups.\n")
    write_card(tmp_path, model_card("me/kitchen", PARTS))
    assert "# kitchen" not in path.read_text()


def test_metadata_that_is_no_yaml_is_refused_by_name(tmp_path):
    (tmp_path / "README.md").write_text(f"---\nlicense: [mit\n---\n{START}\n{END}\n")
    with pytest.raises(ValueError, match=r"README.md: its metadata .* cannot be read, correct it"):
        write_card(tmp_path, model_card("me/kitchen", PARTS))


def test_parts_of_a_model_that_is_divided_are_counted_whole():
    parameter = SimpleNamespace(ds_numel=12, numel=lambda: 0, requires_grad=True)
    inner = SimpleNamespace(named_children=lambda: [("projector", SimpleNamespace())])
    parameters = [("model.projector.weight", parameter)]
    psalm = SimpleNamespace(model=inner, named_children=lambda: [("model", inner)], named_parameters=lambda: parameters)
    assert [part.parameters for part in describe_parts(psalm)] == [12]
