"""Token ids and labels against the released code: every prompt, every piece of text and the shuffled categories recorded."""

import json

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from psalm_hf.model.image_processing_psalm import PsalmImageProcessor
from psalm_hf.model.processing_psalm import PsalmProcessor, tokenizer_from_original_folder
from tests.conftest import GOLDEN
from tests.model.golden import CATEGORY_NAME, EXPRESSION, IMAGE, QUERIES, REGION

pytestmark = pytest.mark.golden

FOLDER = GOLDEN / "prompts"
PHOTO = np.zeros((32, 48, 3), dtype=np.uint8)


def recorded() -> dict:
    if not FOLDER.is_dir():
        return {"tasks": {}, "tokenizer_samples": {}}
    return json.loads((FOLDER / "prompts.json").read_text())


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return tokenizer_from_original_folder(FOLDER)


@pytest.fixture(scope="module")
def processor(tokenizer) -> PsalmProcessor:
    return PsalmProcessor(
        PsalmImageProcessor(size={"longest_edge": 64}), tokenizer, prompt_style="released", num_queries=5, image_grid=(2, 3)
    )


def ask(processor: PsalmProcessor, name: str, case: dict):
    """Our row of a recorded prompt, and the marker that stands for one of its conditions."""
    ids = case["fast"]["input_ids"]
    if CATEGORY_NAME in ids:
        names = case.get("class_names") or [f"name {index}" for index in range(ids.count(CATEGORY_NAME) - 1)] + ["background"]
        task = next((task for task in ("semantic", "instance") if task in name), "panoptic")
        return processor(PHOTO, categories=names, task=task, add_background=False), CATEGORY_NAME
    if EXPRESSION in ids:
        return processor(PHOTO, expressions=[case["sentences"]]), EXPRESSION
    if REGION in ids:
        return processor(PHOTO, regions=[{"box": (1, 1, 9, 9)}] * ids.count(REGION)), REGION
    roles = {"human": "user", "gpt": "assistant"}
    messages = [{"role": roles[turn["from"]], "content": turn["value"]} for turn in case["sources"]]
    return processor(PHOTO if IMAGE in ids else None, conversations=messages), None


def collapse(processor: PsalmProcessor, inputs, condition_marker: int | None) -> tuple[list[int], list[int]]:
    """Ids with the recordings' markers for runs of placeholders and for the tokens of a condition; and where each came from."""
    markers = {processor.image_token_id: IMAGE, processor.mask_query_token_id: QUERIES}
    collapsed, origins, previous = [], [], None
    for position, (token, condition) in enumerate(zip(inputs["input_ids"][0].tolist(), inputs["condition_index"][0].tolist(), strict=True)):
        marker = condition_marker if condition else markers.get(token)
        run = (marker, condition) if marker is not None else None
        if run is None or run != previous:
            collapsed.append(token if marker is None else marker)
            origins.append(position)
        previous = run
    return collapsed, origins


@pytest.mark.parametrize("name", recorded()["tasks"])
def test_prompt_ids(processor, name):
    case = recorded()["tasks"][name]
    inputs, marker = ask(processor, name, case)
    assert collapse(processor, inputs, marker)[0] == case["fast"]["input_ids"] == case["slow"]["input_ids"]


@pytest.mark.parametrize("name", recorded()["tasks"])
def test_condition_ids(processor, name):
    case = recorded()["tasks"][name]["fast"]
    inputs, _ = ask(processor, name, recorded()["tasks"][name])
    conditions = inputs["condition_index"][0]
    tokens = inputs["input_ids"][0][conditions > 0].tolist()
    if "class_name_ids" in case:
        assert tokens == case["class_name_ids"]
        assert (conditions[conditions > 0] - 1).tolist() == case["cls_indices"]
    if "token_refer_id" in case:
        assert tokens == case["token_refer_id"]
        assert set(conditions[conditions > 0].tolist()) == {1}


@pytest.mark.parametrize("name", recorded()["tasks"])
def test_labels(processor, name, monkeypatch):
    """Segmentation rows are not trained to speak, so their labels are looked at where the row is encoded."""
    from psalm_hf.model import processing_psalm

    encoded = []
    encode_row = processing_psalm.encode_row
    monkeypatch.setattr(processing_psalm, "encode_row", lambda *args: encoded.append(encode_row(*args)) or encoded[-1])
    case = recorded()["tasks"][name]
    inputs, marker = ask(processor, name, case)
    _, origins = collapse(processor, inputs, marker)
    # The recorded labels keep the marker of what is inserted later; the released forward ignores every inserted position.
    expected = [label if label >= 0 else -100 for label in case["fast"]["labels"]]
    assert [encoded[0].labels[position] for position in origins] == expected
    if marker is None:
        assert inputs["labels"][0].tolist() == encoded[0].labels
    else:
        assert "labels" not in inputs


@pytest.mark.parametrize("text", recorded()["tokenizer_samples"])
def test_tokenizer_ids(tokenizer, processor, text):
    """Before and after the processor adds its placeholders."""
    expected = recorded()["tokenizer_samples"][text]
    for each in (tokenizer_from_original_folder(FOLDER), processor.tokenizer):
        assert each(text, add_special_tokens=False)["input_ids"] == expected["fast"] == expected["slow"]


def test_the_tokenizer_survives_saving(processor, tmp_path):
    processor.tokenizer.save_pretrained(tmp_path)
    loaded = type(processor.tokenizer).from_pretrained(tmp_path)
    for text, expected in recorded()["tokenizer_samples"].items():
        assert loaded(text, add_special_tokens=False)["input_ids"] == expected["fast"]
    assert loaded.get_vocab() == processor.tokenizer.get_vocab()


def test_placeholders_follow_the_released_vocabulary(processor):
    added = json.loads((FOLDER / "added_tokens.json").read_text())
    last = max(added.values())
    assert [processor.image_token_id, processor.region_token_id, processor.mask_query_token_id] == [last + 1, last + 2, last + 3]
    assert processor.tokenizer.pad_token_id == added["[PAD]"]


def test_shuffled_categories(processor):
    example = recorded()["shuffled_class_order_example"]
    names = next(case["class_names"] for case in recorded()["tasks"].values() if "class_names" in case)
    inputs = processor(PHOTO, categories=names, add_background=False, shuffle_categories=True, seed=example["seed"])
    conditions = inputs["condition_index"][0]
    assert inputs["input_ids"][0][conditions > 0].tolist() == example["class_name_ids"]
    written = list(dict.fromkeys(conditions[conditions > 0].tolist()))  # categories, numbered as given, in the order of the text
    assert [written.index(category + 1) for category in range(len(names))] == example["random_idx"]
