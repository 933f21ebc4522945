"""Vocabularies in several prompts: how names are divided, and that joined outputs are what their parts say."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from psalm_hf.data.benchmarks.label_lists import label_list
from psalm_hf.evaluation.runner import CollateRows, forward
from psalm_hf.model.image_processing_psalm import Placement
from psalm_hf.model.modeling_psalm import PsalmSegmentationOutput
from psalm_hf.model.postprocessing import semantic_scores
from psalm_hf.structures import Sample
from psalm_hf.tiny import build_tiny
from psalm_hf.vocabulary import KEPT_VOCABULARIES, Vocabularies, join_outputs, split_names, split_samples

INF = float("inf")


@pytest.fixture(scope="module")
def tiny():
    return build_tiny()


@pytest.fixture
def processor(tiny):
    """With a `max_length` that a test may change."""
    processor = tiny[1]
    kept = processor.max_length
    yield processor
    processor.max_length = kept


def length_of(processor, names):
    return processor(images=Image.new("RGB", (8, 8)), categories=names, max_length=100_000)["input_ids"].shape[1]


def samples_with(names, colours=("red",), size=(20, 30)):
    picture = {colour: Image.new("RGB", size[::-1], colour) for colour in colours}
    return [Sample(picture[colour], colour, size, categories=dict(enumerate(names, 1))) for colour in colours]


def outputs_for(model, processor, samples, parts=()):
    """Outputs of a vocabulary in these parts, or in one prompt."""
    with torch.no_grad():
        return forward(model, CollateRows(processor, parts)(samples), max(1, len(parts)))


# Dividing. A name takes as many tokens as it has letters, one for [SEG] and two for the comma and the blank behind it.


def test_names_that_fit_are_one_prompt(processor):
    names = ["cat", "dog", "grass"]
    processor.max_length = length_of(processor, names)
    assert split_names(processor, names) == [names]
    processor.max_length -= 1
    assert split_names(processor, names) == [["cat", "dog"], ["grass"]]


def test_parts_are_as_few_as_possible_and_then_as_equal_as_possible(processor):
    names = ["aaaaaaa", "bbbbbbb", "ccccccc", "ddddddd"]  # 10 tokens each
    around = length_of(processor, names) - 40
    expected = {40: [4], 39: [2, 2], 30: [2, 2], 20: [2, 2], 19: [1, 1, 1, 1]}
    for room, sizes in expected.items():
        processor.max_length = around + room
        parts = split_names(processor, names)
        assert [len(part) for part in parts] == sizes and sum(parts, []) == names
    mixed = ["a" * 27, "b", "c", "d", "e" * 17]  # 30, 4, 4, 4 and 20 tokens
    processor.max_length = length_of(processor, mixed) - 62 + 42
    assert split_names(processor, mixed) == [mixed[:1], mixed[1:]]  # 30 and 32, where filling up would give 42 and 20


@pytest.mark.parametrize("benchmark, number", [("lvis", 9), ("pc459", 3), ("ade20k", 1)])
@pytest.mark.parametrize("style", ["paper", "released"])
def test_no_prompt_on_a_published_vocabulary_is_too_long(benchmark, number, style, processor):
    names = [names[0] for names in label_list(benchmark)]
    parts = split_names(processor, names, task="instance", prompt_style=style)
    assert len(parts) == number and sum(parts, []) == names
    for part in parts:  # the processor would refuse it
        processor(images=Image.new("RGB", (8, 8)), categories=part, task="instance", prompt_style=style)


@pytest.mark.parametrize(
    "names, message",
    [
        (["cat", "o" * 2000, "dog"], r"category 'o+' takes 2003 of the 2048 tokens of a prompt \(max_length\), and what stands around it"),
        (["cat", "dog", "cat"], "category 2: 'cat' is also category 0"),
        (["cat", "background"], "'background' is a category of no vocabulary, because every prompt ends in it; leave it out"),
        ([], "the list of categories is empty"),
    ],
)
def test_names_that_no_prompt_can_hold_are_refused(names, message, processor):
    with pytest.raises(ValueError, match=message):
        split_names(processor, names)


def test_every_picture_is_asked_about_every_part(processor):
    one, two = samples_with(["cat", "dog", "grass"], ("red", "blue"))
    rows = split_samples([one, two], [["cat", "dog"], ["grass"]])
    assert [(row.image_id, dict(row.categories)) for row in rows] == [
        ("red", {1: "cat", 2: "dog"}), ("red", {3: "grass"}), ("blue", {1: "cat", 2: "dog"}), ("blue", {3: "grass"}),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="image red: its categories are not those that were divided"):
        split_samples([one], [["cat"], ["dog"]])


# Joining.


def outputs_of(classes, num_conditions, masks=None):
    classes = torch.tensor(classes)
    masks = torch.zeros(*classes.shape[:2], 1, 1) if masks is None else torch.tensor(masks)[:, :, None, None]
    return PsalmSegmentationOutput(
        masks_queries_logits=masks,
        class_queries_logits=classes,
        num_conditions=torch.tensor(num_conditions),
        condition_type=torch.zeros(len(classes), dtype=torch.int64),
        image_index=torch.arange(len(classes)) // 2,
    )


def test_a_query_has_logits_for_its_own_part_and_its_own_background():
    """Two pictures, each asked with one query about two categories, and then about one; -9 is padding."""
    outputs = outputs_of(
        [[[1.0, 2, 3]], [[4.0, -9, 5]], [[6.0, 7, 8]], [[9.0, -9, 10]]], num_conditions=[3, 2, 3, 2], masks=[[1.0], [2], [3], [4]]
    )
    joined = join_outputs(outputs, 2)
    assert joined.class_queries_logits.tolist() == [[[1, 2, -INF, 3], [-INF, -INF, 4, 5]], [[6, 7, -INF, 8], [-INF, -INF, 9, 10]]]
    assert joined.masks_queries_logits.flatten(1).tolist() == [[1, 2], [3, 4]]
    assert (joined.num_conditions.tolist(), joined.condition_type.tolist(), joined.image_index.tolist()) == ([4, 4], [0, 0], [0, 1])


def test_queries_that_are_the_categories_stay_one_per_category():
    outputs = outputs_of([[[1.0, 2, 3], [4, 5, 6]], [[7.0, -9, 8], [-9, -9, -9]]], num_conditions=[3, 2], masks=[[1.0, 2], [3, -9]])
    joined = join_outputs(outputs, 2, decoupled=False)
    assert joined.class_queries_logits.tolist() == [[[1, 2, -INF, 3], [4, 5, -INF, 6], [-INF, -INF, 7, 8]]]
    assert joined.masks_queries_logits.flatten(1).tolist() == [[1, 2, 3]]


def test_rows_that_are_no_parts_of_pictures_are_refused():
    outputs = outputs_of([[[1.0, 2]]] * 3, num_conditions=[2] * 3)
    with pytest.raises(ValueError, match="expected category rows, 2 per image, got 3 rows"):
        join_outputs(outputs, 2)
    outputs.condition_type[1] = 1
    with pytest.raises(ValueError, match=r"got 3 rows of the kinds \[0, 1, 0\]"):
        join_outputs(outputs, 1)
    with pytest.raises(ValueError, match=r"divided into parts of different sizes: \[\[1, 2\], \[2, 1\]\]"):
        join_outputs(outputs_of([[[1.0, 2, 3]]] * 4, num_conditions=[2, 3, 3, 2]), 2)


@pytest.mark.parametrize("names", [["cat"], ["cat", "dog", "grass"]])
def test_one_prompt_is_no_other_than_without_all_this(names, tiny):
    model, processor = tiny
    samples = samples_with(names, ("red", "blue"))
    plain = outputs_for(model, processor, samples)
    divided = outputs_for(model, processor, samples, split_names(processor, names))
    for found in (divided, join_outputs(plain, 1)):
        for field in ("masks_queries_logits", "class_queries_logits", "num_conditions", "condition_type", "image_index"):
            assert torch.equal(getattr(found, field), getattr(plain, field)), field


def test_the_semantic_map_is_that_of_the_scores_of_both_parts(tiny):
    model, processor = tiny
    parts = [["cat", "dog"], ["grass", "sky", "a wall"]]
    samples = samples_with(sum(parts, []), ("red", "blue"))
    joined = outputs_for(model, processor, samples, parts)
    sizes = [sample.image_size for sample in samples]
    maps = processor.post_process_semantic_segmentation(joined, target_sizes=sizes)
    for sample, found in zip(samples, maps, strict=True):
        scores = []
        for part in parts:
            row = outputs_for(model, processor, [replace(sample, categories=dict(enumerate(part)))])
            frame = Placement.of_image(sample.image_size, processor.image_processor.image_size)
            scores.append(semantic_scores(row.masks_queries_logits[0], row.class_queries_logits[0], frame))
        scores = torch.cat(scores)  # (5, H, W)
        top = scores.topk(2, dim=0).values
        is_clear = top[0] - top[1] > 1e-4  # rows of one batch and rows alone differ by rounding
        assert is_clear.float().mean() > 0.5 and torch.equal(found[is_clear], scores.argmax(0)[is_clear])


@pytest.mark.parametrize("benchmark, decouple_masks", [("lvis", True), ("pc459", True), ("pc459", False)])
def test_every_category_of_a_long_vocabulary_gets_a_score(benchmark, decouple_masks):
    model, processor = build_tiny(decouple_masks=decouple_masks)
    names = [names[0] for names in label_list(benchmark)]
    parts = split_names(processor, names, task="instance")
    (sample,) = samples_with(names)
    encoded = []
    model.model.vision_tower.register_forward_pre_hook(lambda module, inputs: encoded.append(len(inputs[0])))
    outputs = outputs_for(model, processor, [replace(sample, task="instance")], parts)
    assert encoded == [1]  # however many prompts, the picture is encoded once

    logits = outputs.class_queries_logits[0]
    queries = model.config.num_queries * len(parts) if decouple_masks else len(names)
    assert logits.shape == (queries, len(names) + 1) and outputs.masks_queries_logits.shape[1] == queries
    assert outputs.num_conditions.tolist() == [len(names) + 1]
    probs = logits.softmax(-1)
    assert bool((probs[:, :-1].max(0).values > 0).all())
    torch.testing.assert_close(probs.sum(-1), torch.ones(queries))
    assert bool((logits.isfinite().sum(-1) <= max(map(len, parts)) + 1).all())  # of its own part alone

    sizes = [sample.image_size]
    (instances,) = processor.post_process_instance_segmentation(
        outputs, threshold=0.0, target_sizes=sizes, top_k=300, return_coco_annotation=True
    )
    labels = {segment["label_id"] for segment in instances["segments_info"]}
    assert labels <= set(range(len(names))) and len(labels) > 1
    (found,) = processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)
    assert found.shape == sample.image_size
    (panoptic,) = processor.post_process_panoptic_segmentation(outputs, target_sizes=sizes)
    assert panoptic["segmentation"].shape == sample.image_size


def test_a_list_that_comes_again_is_neither_divided_nor_tokenised_again(processor, monkeypatch):
    names = [f"thing number {number}" for number in range(60)]
    processor.max_length = 700
    vocabularies = Vocabularies(processor)
    first = vocabularies.encoded_rows([(20, 10)], names, "panoptic")
    assert len(first.row_info) > 1
    with monkeypatch.context() as patch:
        patch.setattr(processor, "_tokens", None)
        again = vocabularies.encoded_rows([(30, 40)], names, "panoptic")
    assert torch.equal(again["input_ids"], first["input_ids"])
    assert (first["original_sizes"].tolist()[0], again["original_sizes"].tolist()[0]) == ([10, 20], [40, 30])
    parts = [list(row.conditions[:-1]) for row in first.row_info]
    assert [name for part in parts for name in part] == names
    by_hand = processor(images=[Image.new("RGB", (8, 8))] * len(parts), categories=parts)
    assert torch.equal(again["input_ids"], by_hand["input_ids"])


def test_the_lists_used_last_are_kept(processor):
    vocabularies = Vocabularies(processor)
    for number in range(KEPT_VOCABULARIES + 3):
        vocabularies.encoded_rows([(20, 10)], [f"name {number}"], "panoptic")
    assert len(vocabularies._parts) == len(vocabularies._rows) == KEPT_VOCABULARIES
