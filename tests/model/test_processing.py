import json
import pickle
import random
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer

from psalm_hf.model import convert_psalm_checkpoint
from psalm_hf.model.image_processing_psalm import PsalmImageProcessor
from psalm_hf.model.processing_psalm import PsalmProcessor, processor_from_original_folder
from psalm_hf.model.rows import RowInfo
from psalm_hf.tiny import byte_tokenizer

SIDE = 64
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 60, 3), dtype=np.uint8))
OTHER = Image.fromarray(np.random.default_rng(1).integers(0, 255, (48, 36, 3), dtype=np.uint8))
QUESTION = [{"role": "user", "content": "What is it?"}]
ANSWERED = [*QUESTION, {"role": "assistant", "content": "A cup."}]
BOX = {"box": (2, 3, 20, 21)}


def make_processor(**options) -> PsalmProcessor:
    options = {"num_queries": 5, "image_grid": (2, 3)} | options
    return PsalmProcessor(PsalmImageProcessor(size={"longest_edge": SIDE}), byte_tokenizer(), **options)


@pytest.fixture
def processor() -> PsalmProcessor:
    return make_processor()


def kinds(inputs) -> list[tuple[int, str]]:
    return [(info.image, info.kind) for info in inputs.row_info]


def test_rows_of_two_images_and_their_shapes(processor):
    inputs = processor(
        [PHOTO, None, OTHER],
        categories=[["cup", "table"], None, ["dog"]],
        expressions=[["the red cup", "all of it"], None, None],
        regions=[None, None, [BOX, {"point": (3, 4)}]],
        conversations=[QUESTION, QUESTION, None],
    )
    assert kinds(inputs) == [
        (0, "category"), (0, "sentence"), (0, "sentence"), (0, "conversation"), (1, "conversation"), (2, "category"), (2, "region"),
    ]  # fmt: skip
    rows, width = inputs["input_ids"].shape
    assert rows == 7
    for name in ("input_ids", "attention_mask", "condition_index"):
        assert inputs[name].shape == (7, width) and inputs[name].dtype == torch.int64
    assert inputs["condition_type"].tolist() == [0, 1, 1, 3, 3, 0, 2]
    assert inputs["image_index"].tolist() == [0, 0, 0, 0, -1, 1, 1]
    assert inputs["original_sizes"].tolist() == [[30, 60]] * 4 + [[0, 0]] + [[48, 36]] * 2
    assert inputs["condition_index"].amax(1).tolist() == [3, 1, 1, 0, 0, 2, 2]  # what the model reads as number of conditions
    assert inputs["pixel_values"].shape == (2, 3, SIDE, SIDE) and inputs["pixel_values"].dtype == torch.float32
    assert inputs["region_weights"].shape == (7, 2, 6)
    torch.testing.assert_close(inputs["region_weights"].sum(-1), torch.tensor([[0.0, 0]] * 6 + [[1.0, 1]]))
    assert "region_image_index" not in inputs and "labels" not in inputs and "mask_labels" not in inputs


def test_placeholders_are_expanded(processor):
    inputs = processor(PHOTO, regions=[BOX] * 3)
    ids = inputs["input_ids"][0]
    counts = [int((ids == token).sum()) for token in (processor.image_token_id, processor.region_token_id, processor.mask_query_token_id)]
    assert counts == [6, 3, 5]
    assert inputs["condition_index"][0][ids == processor.region_token_id].tolist() == [1, 2, 3]


def test_conditions_cover_name_and_seg(processor):
    inputs = processor(PHOTO, categories=["cup", "table"])
    ids, conditions = inputs["input_ids"][0], inputs["condition_index"][0]
    texts = [processor.tokenizer.decode(ids[conditions == number + 1]) for number in range(3)]
    assert texts == ["cup[SEG]", "table[SEG]", "background[SEG]"]
    assert processor.tokenizer.decode(ids[conditions == 0]).count("[SEG]") == 0


def test_the_seg_in_a_region_answer_belongs_to_no_condition(processor):
    inputs = processor(PHOTO, regions=[BOX])
    seg = processor.tokenizer.convert_tokens_to_ids("[SEG]")
    assert inputs["condition_index"][0][inputs["input_ids"][0] == seg].tolist() == [0]


def test_bare_entries_and_lists_over_one_image_are_the_same(processor):
    prompts = {"categories": ["cup"], "expressions": ["it"], "regions": [BOX], "conversations": QUESTION}
    bare = processor(PHOTO, **prompts)
    listed = processor([PHOTO], **{name: [entry] for name, entry in prompts.items()})
    mixed = processor([PHOTO], **prompts)
    single = processor(PHOTO, **(prompts | {"expressions": "it", "regions": BOX}))
    for other in (listed, mixed, single):
        assert kinds(other) == kinds(bare)
        assert all(torch.equal(other[name], bare[name]) for name in bare)


def test_several_sentences_make_one_row(processor):
    inputs = processor(PHOTO, expressions=["one", ["two", "three"]])
    assert [info.conditions for info in inputs.row_info] == [("one",), ("two", "three")]
    assert len(processor([PHOTO], expressions=[["two", "three"]]).row_info) == 2  # a list over images


def test_background_is_appended_once(processor):
    appended = processor(PHOTO, categories=["cup", "table"])
    given = processor(PHOTO, categories=["cup", "table", "Background "])
    assert appended.row_info == given.row_info == (RowInfo(0, "category", ("cup", "table", "background")),)
    assert torch.equal(appended["input_ids"], given["input_ids"])
    alone = processor(PHOTO, categories=["cup", "none of these"], add_background=False)
    assert alone.row_info[0].conditions == ("cup", "none of these")


def test_shuffling_moves_the_text_only(processor):
    names = [f"name {index}" for index in range(20)]
    plain = processor(PHOTO, categories=names)
    shuffled = processor(PHOTO, categories=names, shuffle_categories=True, seed=1)
    assert shuffled.row_info == plain.row_info
    ids, conditions = shuffled["input_ids"][0], shuffled["condition_index"][0]
    assert [processor.tokenizer.decode(ids[conditions == number + 1]) for number in range(20)] == [f"{name}[SEG]" for name in names]
    assert not torch.equal(ids, plain["input_ids"][0])
    again = processor(PHOTO, categories=names, shuffle_categories=True, seed=1)
    assert torch.equal(ids, again["input_ids"][0])


def test_shuffling_leaves_the_background_last_in_the_style_of_the_paper_only(processor):
    names = ["cup", "table", "wall"]
    places = {"paper": set(), "released": set()}
    for style, found in places.items():
        for seed in range(30):
            inputs = processor(PHOTO, categories=names, prompt_style=style, shuffle_categories=True, seed=seed)
            conditions = [condition for condition in inputs["condition_index"][0].unique_consecutive().tolist() if condition]
            assert sorted(conditions) == [1, 2, 3, 4]
            found.add(conditions.index(4))
    assert places == {"paper": {3}, "released": {0, 1, 2, 3}}


def test_shuffling_without_seed_follows_python_s_generator(processor):
    names = [f"name {index}" for index in range(20)]
    drawn = []
    for seed in (5, 5, 6):
        random.seed(seed)
        drawn.append(processor(PHOTO, categories=names, shuffle_categories=True)["input_ids"])
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_task_is_an_instruction_of_the_released_style():
    processor = make_processor(prompt_style="released")
    texts = [processor.batch_decode(processor(PHOTO, categories=["cup"], task=task)["input_ids"])[0] for task in ("panoptic", "semantic")]
    assert "do Panoptic Segmentation" in texts[0] and "do Semantic Segmentation" in texts[1]


def test_left_and_right_padding_hold_the_same_tokens(processor):
    prompts = {"categories": ["cup"], "expressions": ["the red cup on the table"], "regions": [BOX], "conversations": ANSWERED}
    right, left = (processor(PHOTO, padding_side=side, **prompts) for side in ("right", "left"))
    assert right["attention_mask"][:, 0].all() and not right["attention_mask"][:, -1].all()
    assert left["attention_mask"][:, -1].all() and not left["attention_mask"][:, 0].all()
    for row in range(4):
        for name in ("input_ids", "condition_index", "labels"):
            kept = [inputs[name][row][inputs["attention_mask"][row] == 1] for inputs in (right, left)]
            assert torch.equal(*kept)
        for inputs in (right, left):
            padding = inputs["attention_mask"][row] == 0
            assert (inputs["input_ids"][row][padding] == processor.tokenizer.pad_token_id).all()
            assert (inputs["labels"][row][padding] == -100).all() and (inputs["condition_index"][row][padding] == 0).all()


def test_padding_is_on_the_left_where_an_answer_is_awaited(processor):
    assert processor([PHOTO] * 2, conversations=[QUESTION, [QUESTION[0] | {"content": "Why?"}]])["attention_mask"][1, 0] == 0
    assert processor([PHOTO] * 2, conversations=[ANSWERED, [*QUESTION, {"role": "assistant", "content": "."}]])["attention_mask"][1, 0] == 1


def test_padding_to_a_length_and_none(processor):
    assert processor(PHOTO, categories=["cup"], padding="max_length", max_length=777)["input_ids"].shape == (1, 777)
    assert processor(PHOTO, expressions=["a", "b"], padding=False)["attention_mask"].all()


def test_conversations_without_images(processor):
    one = processor(conversations=QUESTION)
    assert "pixel_values" not in one and one["image_index"].tolist() == [-1]
    two = processor(conversations=[QUESTION, ANSWERED])
    assert kinds(two) == [(0, "conversation"), (1, "conversation")]
    assert processor.image_token_id not in two["input_ids"]


def test_labels_are_the_answers_of_conversations(processor):
    inputs = processor(PHOTO, categories=["cup"], conversations=ANSWERED)
    assert (inputs["labels"][0] == -100).all()  # segmentation rows have no language loss
    taught = inputs["labels"][1] != -100
    assert processor.tokenizer.decode(inputs["labels"][1][taught]) == " A cup. <|endoftext|>"
    assert torch.equal(inputs["labels"][1][taught], inputs["input_ids"][1][taught])


def test_a_question_is_the_beginning_of_its_answered_conversation(processor):
    question, answered = processor(PHOTO, conversations=QUESTION), processor(PHOTO, conversations=ANSWERED)
    length = question["input_ids"].shape[1]
    assert torch.equal(answered["input_ids"][:, :length], question["input_ids"])
    assert int((answered["labels"][0] != -100).nonzero()[0, 0]) == length
    assert "labels" not in question


def test_plain_style_is_image_caption_newline(processor):
    inputs = processor(PHOTO, conversations=[{"role": "assistant", "content": "a cup"}], prompt_style="plain")
    assert inputs["input_ids"][0, :6].tolist() == [processor.image_token_id] * 6
    assert processor.tokenizer.decode(inputs["input_ids"][0, 6:]) == "a cup\n"
    assert inputs["labels"][0].tolist() == [-100] * 6 + inputs["input_ids"][0, 6:].tolist()


def test_regions_on_another_image(processor):
    """The left half of a wide and of a high image are not the same tokens."""
    halves = [{"box": (0, 0, 18, 48)}, {"box": (0, 0, 30, 30)}]
    inputs = processor(PHOTO, regions=halves, region_images=[OTHER, None])
    assert inputs["region_image_index"].tolist() == [[0, -1]]
    assert inputs["region_pixel_values"].shape == (1, 3, SIDE, SIDE)
    assert torch.equal(inputs["region_pixel_values"], processor(OTHER, categories=["x"])["pixel_values"])
    own = processor([OTHER, PHOTO], regions=[halves[:1], halves[1:]])
    assert torch.equal(inputs["region_weights"][0], own["region_weights"][:, 0])
    assert inputs["original_sizes"].tolist() == [[30, 60]]


def test_an_image_for_all_regions_is_encoded_once(processor):
    inputs = processor([PHOTO, PHOTO], regions=[[BOX, BOX], [BOX]], region_images=[OTHER, OTHER])
    assert inputs["region_image_index"].tolist() == [[0, 0], [0, -1]]
    assert len(inputs["region_pixel_values"]) == 1


@pytest.mark.parametrize("images", [PHOTO, [PHOTO]], ids=["bare", "list"])
@pytest.mark.parametrize("region_images", [[OTHER, None], [[OTHER, None]]], ids=["entry", "list over images"])
def test_region_images_of_one_image_may_be_its_entry_or_a_list(processor, images, region_images):
    inputs = processor(images, regions=[BOX, BOX], region_images=region_images)
    assert inputs["region_image_index"].tolist() == [[0, -1]]


@pytest.mark.parametrize("region_images", [OTHER, [OTHER]])
def test_one_region_image_serves_all_regions_of_one_image(processor, region_images):
    assert processor([PHOTO], regions=[BOX, BOX], region_images=region_images)["region_image_index"].tolist() == [[0, 0]]


def test_an_image_given_twice_is_preprocessed_once(processor):
    inputs = processor([PHOTO, OTHER, PHOTO], expressions=[["a"], ["b"], ["c", "d"]])
    assert inputs["image_index"].tolist() == [0, 1, 0, 0]
    assert [info.image for info in inputs.row_info] == [0, 1, 2, 2]
    assert torch.equal(inputs["pixel_values"], processor.image_processor([PHOTO, OTHER], return_tensors="pt")["pixel_values"])


def test_an_image_that_is_asked_about_and_drawn_on_is_preprocessed_once(processor):
    with patch.object(PsalmImageProcessor, "_preprocess", autospec=True, side_effect=PsalmImageProcessor._preprocess) as preprocess:
        inputs = processor([PHOTO, OTHER], regions=[[BOX, BOX], [BOX]], region_images=[[None, OTHER], PHOTO])
    assert [len(call.args[1]) for call in preprocess.call_args_list] == [2]
    assert inputs["region_image_index"].tolist() == [[-1, 0], [1, -1]]
    assert torch.equal(inputs["region_pixel_values"], inputs["pixel_values"].flip(0))


def test_a_prompt_is_encoded_without_its_image_as_with_it(processor):
    prompts = {"categories": ["cup", "table"], "expressions": ["the red cup", ["it", "that"]]}
    for options in ({}, {"prompt_style": "released", "task": "semantic", "padding_side": "left"}):
        expected = processor(PHOTO, regions=[BOX] * 3, conversations=ANSWERED, **prompts, **options)
        encoded = processor.encode_prompt(num_regions=3, conversation=ANSWERED, **prompts, **options)
        for name in ("input_ids", "attention_mask", "condition_index", "condition_type", "image_index", "labels"):
            assert torch.equal(encoded.pop(name), expected[name])
        assert not encoded.data
        assert [info.kind for info in encoded.row_info] == [info.kind for info in expected.row_info]
    assert torch.equal(processor.encode_prompt(expressions="a")["input_ids"], processor(PHOTO, expressions="a")["input_ids"])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({}, "image 0: no prompt"),
        ({"num_regions": 0}, "num_regions: expected at least 1, got 0"),
        ({"categories": ["cup", "cup"]}, "category 1: 'cup' is also category 0"),
        ({"expressions": "a", "task": "x"}, "task: expected one of"),
        ({"expressions": "a " * 900, "max_length": 99}, "at most 99 fit"),
    ],
)
def test_a_prompt_without_image_is_refused_like_one_with_it(processor, prompt, message):
    with pytest.raises(ValueError, match=message):
        processor.encode_prompt(**prompt)


def test_region_weights_alone_are_those_of_a_row():
    regions = [BOX, {"point": (3, 4)}, {"mask": np.ones((30, 60), dtype=bool)}]
    for sampling in ("exact", "released"):
        processor = make_processor(region_sampling=sampling)
        expected = processor(PHOTO, regions=regions, seed=5)["region_weights"][0]
        weights = processor.region_weights(regions, (30, 60), generator=torch.Generator().manual_seed(5))
        assert weights.shape == (3, 6) and torch.equal(weights, expected)
        torch.testing.assert_close(weights.sum(1), torch.ones(3))
    with pytest.raises(ValueError, match="region 1: the point .* lies outside of its image, which is 60 wide and 30 high"):
        processor.region_weights([BOX, {"point": (60, 4)}], (30, 60))
    with pytest.raises(ValueError, match="the cup: the box"):
        processor.region_weights([{"box": (9, 9, 2, 2)}], (30, 60), names=["the cup"])


def test_row_info_is_found_by_name_but_is_no_item(processor):
    inputs = processor(PHOTO, categories=["cup"])
    assert inputs["row_info"] == inputs.row_info and "row_info" not in dict(inputs)


def test_stuff_may_be_named_by_a_tensor(processor):
    outputs = SimpleNamespace(
        masks_queries_logits=torch.full((1, 2, 4, 4), 9.0),
        class_queries_logits=torch.tensor([[[9.0, -9.0], [9.0, -9.0]]]),
        condition_type=torch.tensor([0]),
        num_conditions=torch.tensor([2]),
    )
    for stuff in (torch.tensor([0]), np.array([0]), {0}, [0]):
        (answer,) = processor.post_process_panoptic_segmentation(outputs, label_ids_to_fuse=stuff)
        assert [segment["was_fused"] for segment in answer["segments_info"]] == [True]


def test_sam_prompts_are_regions(processor):
    points = [[[[5, 6], [9, 9]], [[7, 7]]]]
    ours = processor([PHOTO], regions=[[{"points": [(5, 6), (9, 9)]}, {"points": [(7, 7)]}]])
    sam = processor([PHOTO], input_points=points, input_labels=[[[1, 1], [1]]])
    assert torch.equal(sam["region_weights"], ours["region_weights"]) and torch.equal(sam["input_ids"], ours["input_ids"])
    boxes = torch.tensor([[[2.0, 3.0, 20.0, 21.0]]])
    assert torch.equal(processor(PHOTO, input_boxes=boxes)["region_weights"], processor(PHOTO, regions=[BOX])["region_weights"])
    older = processor([PHOTO], input_points=[[[1, 1], [2, 2]]], input_labels=[[1, 1]])  # the points of an image are one object
    assert torch.equal(older["region_weights"], processor([PHOTO], regions=[{"points": [(1, 1), (2, 2)]}])["region_weights"])
    array = processor(PHOTO, input_points=np.array([[[[7, 7]]]]), input_labels=torch.ones(1, 1, 1))
    assert torch.equal(array["region_weights"][0, 0], ours["region_weights"][0, 1])


def test_sam_labels_and_boxes_join_the_points_of_their_object(processor):
    points, labels, boxes = [[[[5, 6], [9, 9]], [[7, 7], [2, 2]]]], [[[1, 0], [1, 1]]], [[[2, 3, 20, 21], [4, 4, 9, 9]]]
    sam = processor([PHOTO], input_points=points, input_labels=labels, input_boxes=boxes)
    pairs = zip(points[0], labels[0], boxes[0], strict=True)
    ours = processor(PHOTO, regions=[{"points": of_points, "labels": of_labels, "box": box} for of_points, of_labels, box in pairs])
    assert torch.equal(sam["region_weights"], ours["region_weights"])
    assert sam.row_info == ours.row_info == (RowInfo(0, "region", ("points + box",) * 2, (((5, 6, 1), (9, 9, 0)), ())),)


def test_rows_know_clicks_only_where_a_point_has_label_0(processor):
    alone = processor(PHOTO, regions=[{"point": (5, 6)}, BOX])
    assert alone.row_info == (RowInfo(0, "region", ("point", "box")),)
    labelled = processor(PHOTO, regions=[{"points": [(5, 6)], "labels": [1]}, BOX])
    assert torch.equal(labelled["region_weights"], alone["region_weights"]) and labelled.row_info[0].clicks == ()
    both = processor(PHOTO, regions=[{"points": [(5, 6), (40, 20)], "labels": [1, 0]}, BOX])
    assert torch.equal(both["region_weights"], alone["region_weights"]) and both.row_info[0].clicks == (((5, 6, 1), (40, 20, 0)), ())
    own = processor(PHOTO, regions=[{"points": [(5, 6), (40, 20)], "labels": [1, 0]}], region_images=[PHOTO])  # the same image
    assert own.row_info[0].clicks == (((5, 6, 1), (40, 20, 0)),)


def test_released_region_sampling_follows_the_seed():
    processor = make_processor(region_sampling="released")
    draws = [processor(PHOTO, regions=[BOX], seed=seed)["region_weights"] for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    torch.manual_seed(0)
    assert torch.equal(processor(PHOTO, regions=[BOX])["region_weights"], draws[0])


def test_targets_are_placed_like_the_image(processor):
    masks = np.zeros((2, 30, 60), dtype=bool)
    masks[0, :, :30] = True
    masks[1, :15] = True
    inputs = processor(PHOTO, categories=["cup", "table"], targets=[{"masks": masks, "class_labels": [1, 0]}])
    (placed,), (labels,) = inputs["mask_labels"], inputs["class_labels"]
    assert placed.shape == (2, SIDE, SIDE) and placed.dtype == torch.bool
    assert labels.tolist() == [1, 0] and labels.dtype == torch.int64
    assert placed[0, :32, :32].all() and placed[0].sum() == 32 * 32
    assert placed[1, :16].all() and placed[1].sum() == 16 * 64


def test_targets_of_every_form_and_kind(processor):
    bitmap = np.zeros((30, 60), dtype=bool)
    bitmap[:, :30] = True
    rle = {"size": [30, 60], "counts": [0, 900, 900]}
    polygon = [[0, 0, 30, 0, 30, 30, 0, 30]]
    inputs = processor(
        [PHOTO, PHOTO],
        categories=[["cup"], None],
        expressions=[["left"], ["nothing"]],
        regions=[[BOX, BOX], None],
        conversations=[ANSWERED, None],
        targets=[
            {"masks": [bitmap, rle, polygon], "class_labels": torch.tensor([0, 0, 0])},
            {"masks": torch.from_numpy(bitmap)[None]},
            {"masks": [rle, Image.fromarray(bitmap)]},
            None,
            {"masks": []},
        ],
    )
    assert [tuple(masks.shape) for masks in inputs["mask_labels"]] == [(3, 64, 64), (1, 64, 64), (2, 64, 64), (0, 64, 64), (0, 64, 64)]
    assert [labels.tolist() for labels in inputs["class_labels"]] == [[0, 0, 0], [0], [0, 0], [], []]
    for masks in inputs["mask_labels"][:3]:
        assert all(torch.equal(mask, masks[0]) for mask in masks)


def test_a_mapping_is_the_target_of_a_single_row(processor):
    assert processor(PHOTO, expressions=["it"], targets={"masks": np.ones((1, 30, 60), dtype=bool)})["mask_labels"][0][:, :32].all()


def test_row_info_stays_out_of_the_model_and_with_the_batch(processor):
    inputs = processor(PHOTO, expressions=["it"])
    assert set(inputs) <= set(processor.model_input_names)
    for copy in (pickle.loads(pickle.dumps(inputs)), inputs.to("cpu"), inputs.to(torch.bfloat16)):
        assert copy.row_info == (RowInfo(0, "sentence", ("it",)),)
    assert inputs["pixel_values"].dtype == torch.bfloat16 and inputs["input_ids"].dtype == torch.int64


def test_processor_survives_saving(tmp_path):
    processor = make_processor(prompt_style="released", region_sampling="released", prompt_radii=(4, 2), max_length=999)
    processor.save_pretrained(tmp_path)
    call = {"categories": ["cup"], "regions": [BOX], "conversations": ANSWERED, "seed": 0}
    expected = processor(PHOTO, **call)
    for loaded in (PsalmProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is PsalmProcessor
        assert (loaded.max_length, loaded.prompt_radii) == (999, (4, 2))
        inputs = loaded(PHOTO, **call)
        assert all(torch.equal(inputs[name], expected[name]) for name in expected)
        assert len(loaded.tokenizer) == len(processor.tokenizer)
    assert PsalmProcessor.from_pretrained(tmp_path, prompt_style="paper").prompt_style == "paper"


def write_original_folder(folder, fields: dict) -> None:
    byte_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llava_phi"} | fields))


def test_original_folder_with_tokenizer_json_only(tmp_path):
    write_original_folder(tmp_path, {})
    processor = PsalmProcessor.from_pretrained(tmp_path)
    assert (processor.image_processor.image_size, processor.num_queries, processor.image_grid) == (1024, 100, (16, 16))
    assert (processor.prompt_style, processor.region_sampling, processor.max_length) == ("released", "exact", 2048)
    write_original_folder(tmp_path, {"image_size": 128, "num_queries": 7, "max_position_embeddings": 512})
    processor = PsalmProcessor.from_pretrained(str(tmp_path), prompt_style="paper")
    assert (processor.image_processor.image_size, processor.num_queries, processor.image_grid) == (128, 7, (2, 2))
    assert (processor.prompt_style, processor.max_length) == ("paper", 512)


def test_original_folder_with_vocabulary_files(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(save_bytes(tmp_path / "bytes"))
    added = {"  ": 257, "   ": 258, "[PAD]": 259, "[SEG]": 260}
    vocabulary = {token: index for token, index in tokenizer.get_vocab().items() if index < 256} | {"<|endoftext|>": 256}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "added_tokens.json").write_text(json.dumps(dict(reversed(added.items()))))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava_phi", "image_size": 64}))
    processor = processor_from_original_folder(tmp_path)
    assert processor.tokenizer("a  b   [SEG] [SEG]", add_special_tokens=False)["input_ids"] == [
        vocabulary["a"], 257, vocabulary["b"], 258, 260, vocabulary["Ġ"], 260
    ]  # fmt: skip
    assert [processor.tokenizer.pad_token_id, processor.image_token_id, processor.mask_query_token_id] == [259, 261, 263]


def save_bytes(folder):
    byte_tokenizer().save_pretrained(folder)
    return folder


def test_original_checkpoint_of_the_hub_is_downloaded_without_weights(tmp_path, monkeypatch):
    write_original_folder(tmp_path, {"image_size": 64})
    asked = {}

    def download(name, allow_patterns, **hub):
        asked.update(name=name, allow_patterns=allow_patterns, **hub)
        return str(tmp_path)

    monkeypatch.setattr(convert_psalm_checkpoint.PreTrainedConfig, "get_config_dict", lambda name, **hub: ({"model_type": "llava_phi"}, {}))
    monkeypatch.setattr(convert_psalm_checkpoint, "snapshot_download", download)
    assert PsalmProcessor.from_pretrained("me/psalm", revision="v1").image_processor.image_size == 64
    assert asked == {"name": "me/psalm", "allow_patterns": ["*.json", "*.txt"], "revision": "v1"}
