"""What a user can get wrong, one row each: handled, or a ValueError that names the item, what was expected and what came."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from psalm_hf.model.image_processing_psalm import PsalmImageProcessor
from psalm_hf.model.processing_psalm import PsalmProcessor
from psalm_hf.tiny import build_tiny, byte_tokenizer

PHOTO = Image.new("RGB", (60, 30))
MASK = np.ones((30, 60), dtype=bool)
BOX = {"box": (2, 3, 20, 21)}
QUESTION = [{"role": "user", "content": "What is it?"}]
ANSWERED = [*QUESTION, {"role": "assistant", "content": "A cup."}]


@pytest.fixture(scope="module")
def processor() -> PsalmProcessor:
    return PsalmProcessor(PsalmImageProcessor(size={"longest_edge": 64}), byte_tokenizer(), num_queries=5, image_grid=(2, 3))


REFUSED = {
    # images
    "a path instead of an image": ({"images": "cup.jpg", "categories": ["cup"]}, "image 0: .*load_image"),
    "no image in a list": ({"images": [PHOTO, "cup.jpg"], "expressions": [["a"], ["b"]]}, "image 1: .*load_image"),
    "an empty list of images": ({"images": [], "categories": ["cup"]}, "images: the list is empty"),
    "segmentation without image": ({"categories": ["cup"]}, "images: none given; only conversations"),
    "segmentation of None": ({"images": [None], "regions": [[BOX]]}, "image 0: regions need an image"),
    "no prompt": ({"images": PHOTO}, "image 0: no prompt"),
    "an image without prompt": ({"images": [PHOTO, PHOTO], "categories": [["cup"], None]}, "image 1: no prompt"),
    # lists over images
    "fewer entries than images": ({"images": [PHOTO, PHOTO], "expressions": [["a"]]}, "expressions: 1 entries for 2 images"),
    "a bare entry for two images": ({"images": [PHOTO, PHOTO], "categories": ["a", "b"]}, "categories: one list for 2 images"),
    "a single name": ({"images": PHOTO, "categories": "cup"}, "categories: expected a list, got 'cup'"),
    "a name inside a list over images": ({"images": [PHOTO, PHOTO], "categories": [["a"], "b"]}, "categories: one list for 2 images"),
    # categories
    "empty category list": ({"images": PHOTO, "categories": []}, "image 0: the list of categories is empty"),
    "blank name": ({"images": PHOTO, "categories": ["cup", " "]}, "image 0, category 1: is blank"),
    "a name given twice": ({"images": PHOTO, "categories": ["a", "b", "a"]}, "image 0, category 2: 'a' is also category 0"),
    "a name that is none": ({"images": PHOTO, "categories": ["cup", 3]}, "image 0, category 1: expected a string, got int"),
    "background before others": ({"images": PHOTO, "categories": ["background", "cup"]}, "category 0: 'background'.*goes last"),
    "background twice": ({"images": PHOTO, "categories": ["a", "background", "Background"]}, "category 1: 'background'.*goes last"),
    "background alone": ({"images": PHOTO, "categories": ["background"]}, "'background' is the only category"),
    "one category without background": ({"images": PHOTO, "categories": ["a"], "add_background": False}, "'a' is the only category"),
    "placeholder in a name": ({"images": PHOTO, "categories": ["a <image>"]}, "category 0: contains '<image>'"),
    "[SEG] in a name": ({"images": PHOTO, "categories": ["a[SEG]"]}, r"category 0: contains '\[SEG\]'"),
    "unknown task": ({"images": PHOTO, "categories": ["a"], "task": "detection"}, "task: expected one of panoptic, semantic, instance"),
    # expressions
    "blank expression": ({"images": PHOTO, "expressions": ["a", ""]}, "image 0, expression 1: is blank"),
    "no expression": ({"images": PHOTO, "expressions": []}, "image 0: expressions are a list of at least one"),
    "expression without sentence": ({"images": PHOTO, "expressions": [[]]}, "image 0, expression 0: expected a string or a list"),
    "placeholder in an expression": ({"images": PHOTO, "expressions": ["<mask_query>"]}, "expression 0: contains '<mask_query>'"),
    "end of text in an expression": ({"images": PHOTO, "expressions": ["a<|endoftext|>"]}, "expression 0: contains"),
    # regions; more of them in test_regions.py
    "no region": ({"images": PHOTO, "regions": []}, "image 0: regions are a list of at least one"),
    "region outside the image": ({"images": PHOTO, "regions": [BOX, {"point": (61, 3)}]}, "image 0, region 1: .*60 wide and 30 high"),
    "empty mask": ({"images": PHOTO, "regions": [{"mask": MASK & False}]}, "image 0, region 0: the mask is empty"),
    "box with x1 < x0": ({"images": PHOTO, "regions": [{"box": (9, 3, 2, 8)}]}, "image 0, region 0: .*x1 < x0"),
    "NaN coordinate": ({"images": PHOTO, "regions": [{"point": (float("nan"), 3)}]}, "image 0, region 0: .*finite"),
    "mask of another size": ({"images": PHOTO, "regions": [{"mask": MASK.T}]}, r"region 0: has shape \(60, 30\).*\(30, 60\)"),
    "region on another image, outside": (
        {"images": PHOTO, "regions": [{"point": (50, 3)}], "region_images": Image.new("RGB", (40, 40))},
        "image 0, region 0: .*40 wide and 40 high",
    ),
    "region images of another number": (
        {"images": PHOTO, "regions": [BOX], "region_images": [PHOTO, PHOTO]}, "image 0: 2 region_images for 1 regions",
    ),
    "region images for another number of images": (
        {"images": [PHOTO, PHOTO], "regions": [[BOX], [BOX]], "region_images": PHOTO}, "region_images: .* for 2 images",
    ),
    "region images without regions": ({"images": PHOTO, "categories": ["a"], "region_images": PHOTO}, "image 0: region_images without"),
    "an unreadable region image": ({"images": PHOTO, "regions": [BOX], "region_images": ["a.png"]}, "region 0, its region image: .*path"),
    # SAM style
    "background point": ({"images": PHOTO, "input_points": [[[[1, 2]]]], "input_labels": [[[0]]]}, "image 0, region 0: all of its points"),
    "labels of another number of points": (
        {"images": PHOTO, "input_points": [[[[1, 2]]]], "input_labels": [[[1, 1]]]}, "image 0, object 0: 2 labels for 1 points",
    ),
    "labels of another number of objects": (
        {"images": PHOTO, "input_points": [[[[1, 2]]]], "input_labels": [[[1], [1]]]}, "image 0: 2 objects, but input_points has 1",
    ),
    "labels of another number of images": (
        {"images": PHOTO, "input_points": [[[[1, 2]]]], "input_labels": [[[1]], [[1]]]}, "input_labels: 2 images, but input_points has 1",
    ),
    "no labels of points": ({"images": PHOTO, "input_points": [[[[1, 2]]]], "input_labels": []}, "input_labels: expected .* 3 deep"),
    "a bare label": ({"images": PHOTO, "input_points": [[[[1, 2]]]], "input_labels": 0}, "input_labels: expected .* 3 deep"),
    "a background point of the older form": (
        {"images": PHOTO, "input_points": [[[1, 2]]], "input_labels": [[0]]}, "image 0, region 0: all of its points",
    ),
    "points that are no lists": ({"images": PHOTO, "input_points": 5}, "input_points: expected .* 4 deep"),
    "boxes that are not nested": ({"images": PHOTO, "input_boxes": [1, 2, 3, 4]}, "input_boxes: expected .* 3 deep"),
    "a box left of the image": ({"images": PHOTO, "regions": [{"box": (-5, 3, 0, 9)}]}, "image 0, region 0: .* lies outside"),
    "a box above the image": ({"images": PHOTO, "regions": [{"box": (2, -5, 9, 0)}]}, "image 0, region 0: .* lies outside"),
    "a box in words": ({"images": PHOTO, "regions": [{"box": "abc"}]}, "image 0, region 0: a box is"),
    "a box with names": ({"images": PHOTO, "regions": [{"box": {"x": 1}}]}, "image 0, region 0: a box is"),
    "an RLE without size": ({"images": PHOTO, "regions": [{"mask": {"size": None, "counts": [9]}}]}, "region 0: the size of"),
    "an RLE of three sizes": ({"images": PHOTO, "regions": [{"mask": {"size": [30, 60, 3], "counts": [1]}}]}, "region 0: the size of"),
    "targets without masks": (
        {"images": PHOTO, "categories": ["a"], "targets": {"masks": None}}, r"targets\[0\].*'masks' is an \(N, H, W\) array",
    ),
    "labels in words": (
        {"images": PHOTO, "categories": ["a"], "targets": {"masks": [MASK], "class_labels": ["a"]}}, r"targets\[0\].*indices into",
    ),
    "labels without points": ({"images": PHOTO, "input_labels": [[[1]]]}, "input_labels: given without input_points"),
    "points and boxes of other objects": (
        {"images": PHOTO, "input_points": [[[[1, 2]]]], "input_boxes": [[[1, 2, 3, 4]] * 2]}, "input_boxes, image 0: 2 objects",
    ),
    "a point of label 0 on another image": (
        {"images": PHOTO, "regions": [{"points": [(1, 2), (9, 9)], "labels": [1, 0]}], "region_images": Image.new("RGB", (40, 40))},
        "image 0, region 0: has points of label 0, but is drawn on another image",
    ),
    "a label of another value": (
        {"images": PHOTO, "input_points": [[[[1, 2], [3, 4]]]], "input_labels": [[[1, 5]]]}, r"region 0: labels are 1 .*got \[1, 5\]",
    ),
    "points and regions": ({"images": PHOTO, "input_points": [[[[1, 2]]]], "regions": [BOX]}, "together"),
    # conversations
    "no message": ({"images": PHOTO, "conversations": []}, "conversation: expected a list of at least one message"),
    "message without content": ({"images": PHOTO, "conversations": [{"role": "user"}]}, "message 0: expected the keys 'role' and"),
    "assistant first": ({"images": PHOTO, "conversations": ANSWERED[::-1]}, "message 0: expected the role 'user', got 'assistant'"),
    "two user turns": ({"images": PHOTO, "conversations": QUESTION * 2}, "message 1: expected the role 'assistant', got 'user'"),
    "blank message": ({"images": PHOTO, "conversations": [{"role": "user", "content": ""}]}, "message 0: is blank"),
    "image mentioned twice": (
        {"images": PHOTO, "conversations": [{"role": "user", "content": "<image> and <image>"}]}, "<image> is mentioned 2 times",
    ),
    "image mentioned but not given": (
        {"conversations": [{"role": "user", "content": "<image> what?"}]}, "<image> is mentioned 1 times.* no image",
    ),
    "image mentioned in an answer": (
        {"images": PHOTO, "conversations": [*QUESTION, {"role": "assistant", "content": "<image>"}]}, "message 1: contains '<image>'",
    ),
    "region mentioned": ({"images": PHOTO, "conversations": [{"role": "user", "content": "<region>?"}]}, "message 0: contains '<region>'"),
    "region mentioned beside the image": (
        {"images": PHOTO, "conversations": [{"role": "user", "content": "<image> <region>"}]}, "message 0: contains '<region>'",
    ),
    "plain style with a question": ({"images": PHOTO, "conversations": QUESTION, "prompt_style": "plain"}, "expected the role 'assistant'"),
    "plain style with categories": ({"images": PHOTO, "categories": ["a"], "prompt_style": "plain"}, "plain style has captions"),
    "plain style without image": (
        {"conversations": [{"role": "assistant", "content": "a"}], "prompt_style": "plain"}, "plain style takes an image",
    ),
    # lengths and options
    "too many tokens": ({"images": PHOTO, "expressions": ["a", "b" * 3000]}, r"row 1 \(the sentence row of image 0\) has 3\d+ tokens"),
    "placeholders alone too many": ({"images": PHOTO, "regions": [BOX], "max_length": 11}, "of which 12 stand for the image.*at most 11"),
    "unequal lengths unpadded": ({"images": PHOTO, "expressions": ["a", "bb"], "padding": False}, "padding=False they need equal lengths"),
    "unknown style": ({"images": PHOTO, "expressions": ["a"], "prompt_style": "mine"}, "prompt_style: expected one of released"),
    "unknown padding": ({"images": PHOTO, "expressions": ["a"], "padding": "left"}, "padding: expected one of"),
    "numpy tensors": ({"images": PHOTO, "expressions": ["a"], "return_tensors": "np"}, "return_tensors: expected one of pt, got 'np'"),
    # targets
    "targets of another number of rows": ({"images": PHOTO, "expressions": ["a", "b"], "targets": [{"masks": []}]}, "1 entries for 2 rows"),
    "no target for a row": ({"images": PHOTO, "expressions": ["a"], "targets": [None]}, r"targets\[0\] .*expected a dictionary"),
    "a target for a conversation": ({"images": PHOTO, "conversations": ANSWERED, "targets": [{"masks": []}]}, "expected None, got dict"),
    "target without masks": ({"images": PHOTO, "expressions": ["a"], "targets": [{}]}, "expected a dictionary with 'masks'"),
    "target mask of another size": (
        {"images": PHOTO, "expressions": ["a"], "targets": [{"masks": [MASK, MASK.T]}]}, r"targets\[0\].*mask 1: has shape \(60, 30\)",
    ),
    "fewer labels than masks": (
        {"images": PHOTO, "categories": ["a"], "targets": [{"masks": [MASK], "class_labels": []}]}, "1 masks, but class_labels of shape",
    ),
    "no labels": ({"images": PHOTO, "categories": ["a"], "targets": [{"masks": [MASK]}]}, "1 masks, but class_labels of shape"),
    "label of the background": (
        {"images": PHOTO, "categories": ["a"], "targets": [{"masks": [MASK], "class_labels": [1]}]}, r"\[0\] is 1, expected 0 to 0",
    ),
    "negative label": (
        {"images": PHOTO, "categories": ["a"], "targets": [{"masks": [MASK], "class_labels": [-1]}]}, r"class_labels\[0\] is -1",
    ),
    "fewer masks than regions": ({"images": PHOTO, "regions": [BOX] * 2, "targets": [{"masks": [MASK]}]}, "1 masks for 2 regions"),
    "half an emoji in an expression": ({"images": PHOTO, "expressions": ["cup \ud83d"]}, "expression 0: has half of a character at 4"),
    "half an emoji in a category": ({"images": PHOTO, "categories": ["cup \ud83d"]}, "image 0, category 0: has half of a character"),
    "half an emoji in a message": (
        {"conversations": [{"role": "user", "content": "\udc00"}]}, "image 0, conversation, message 0: has half of a character",
    ),
    "a coordinate beyond all floats": ({"images": PHOTO, "regions": [{"point": (10**400, 1)}]}, "image 0, region 0: expected"),
    "a box beyond all floats": ({"images": PHOTO, "regions": [{"box": (0, 0, 10**400, 1)}]}, "image 0, region 0: a box is"),
    "a mask whose runs overflow": (
        {"images": PHOTO, "regions": [{"mask": {"size": [30, 60], "counts": [2**62] * 4 + [1800]}}]}, "region 0: the RLE has a run",
    ),
    "a tensor without values": ({"images": torch.empty(3, 8, 8, device="meta"), "categories": ["a"]}, "image 0: expected a tensor of real"),
    "a seed that is no whole number": ({"images": PHOTO, "categories": ["a"], "seed": 1.5}, "^seed: expected a whole number"),
    "a seed beyond 64 bits": ({"images": PHOTO, "categories": ["a"], "seed": 2**64}, "^seed: expected a whole number"),
    "a length as text": ({"images": PHOTO, "categories": ["a"], "max_length": "9"}, "^max_length: expected a whole number"),
    "no length": ({"images": PHOTO, "categories": ["a"], "max_length": 0}, "^max_length: expected a whole number of at least 1"),
    "targets that are no list": ({"images": PHOTO, "categories": ["a"], "targets": 5}, "^targets: expected a list"),
    "polygon of two corners": ({"images": PHOTO, "expressions": ["a"], "targets": [{"masks": [[[0, 0, 1, 1]]]}]}, "at least 3 corners"),
    "polygon with NaN": (
        {"images": PHOTO, "expressions": ["a"], "targets": [{"masks": [[[0, 0, 1, 1, float("nan"), 2]]]}]}, "at least 3 corners",
    ),
}  # fmt: skip


@pytest.mark.parametrize("call, message", REFUSED.values(), ids=REFUSED)
def test_refused(processor, call, message):
    with pytest.raises(ValueError, match=message):
        processor(**call)


HANDLED = {
    "bfloat16 pixels": {"images": torch.rand(3, 8, 8).bfloat16(), "categories": ["cup"]},
    "a bfloat16 mask": {"images": PHOTO, "regions": [{"mask": torch.ones(30, 60).bfloat16()}]},
    "a very flat image": {"images": np.zeros((1, 4000, 3), dtype=np.uint8), "categories": ["cup"]},
    "a very high image with a point": {"images": np.zeros((4000, 1), dtype=np.uint8), "regions": [{"point": (0, 3999)}]},
    "background in capitals": {"images": PHOTO, "categories": ["cup", "BACKGROUND"]},
    "one-point scribble": {"images": PHOTO, "regions": [{"scribble": [(3, 3)]}]},
    "box that reaches outside": {"images": PHOTO, "regions": [{"box": (-5, -5, 500, 500)}]},
    "a region of one pixel": {"images": np.zeros((900, 900, 3), dtype=np.uint8), "regions": [{"box": (1, 1, 2, 2)}]},
    "no target mask": {"images": PHOTO, "categories": ["cup"], "targets": [{"masks": [], "class_labels": []}]},
    "no target mask, as array": {"images": PHOTO, "expressions": ["a"], "targets": [{"masks": np.zeros((0, 30, 60))}]},
    "punctuation, other scripts": {"images": PHOTO, "expressions": ["日本 <b> {conditions} %s"], "categories": ["{conditions}", "<seg>"]},
}


@pytest.mark.parametrize("call", HANDLED.values(), ids=HANDLED)
def test_handled(processor, call):
    inputs = processor(**call)
    assert inputs["pixel_values"].isfinite().all()
    if "region_weights" in inputs:
        assert inputs["region_weights"].sum(-1).tolist() == [[pytest.approx(1)]]


def test_a_file_that_breaks_while_it_is_read_names_its_image(processor, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    (tmp_path / "photo.png").write_bytes((tmp_path / "photo.png").read_bytes()[:2000])
    with pytest.raises(ValueError, match="image 1: cannot be converted to RGB .*truncated"):
        processor([PHOTO, Image.open(tmp_path / "photo.png")], expressions=[["a"], ["b"]])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"prompt_style": "plain"}, "prompt_style: expected one of released, paper"),
        ({"region_sampling": "mean"}, "region_sampling: expected one of exact, released"),
        ({"prompt_radii": (10, -1)}, "prompt_radii: expected .* at least 0 pixels"),
        ({"prompt_radii": (10,)}, "prompt_radii"),
        ({"image_grid": (0, 4)}, "image_grid"),
        ({"image_grid": (4,)}, "image_grid"),
        ({"num_queries": -1}, "num_queries >= 0"),
        ({"max_length": 0}, "max_length >= 1"),
    ],
)
def test_constructor_options(options, message):
    with pytest.raises(ValueError, match=message):
        PsalmProcessor(PsalmImageProcessor(), byte_tokenizer(), **options)


def test_tokenizer_without_end_of_text():
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no eos_token"):
        PsalmProcessor(PsalmImageProcessor(), tokenizer)


def test_a_folder_in_which_no_processor_was_saved(tmp_path):
    build_tiny()[0].config.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="has no processor_config.json, so no processor was saved there; save that of the model"):
        PsalmProcessor.from_pretrained(tmp_path)


def test_original_folder_without_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava_phi"}))
    with pytest.raises(ValueError, match="no tokenizer; expected vocab.json and merges.txt"):
        PsalmProcessor.from_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "<|endoftext|>": 1}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ValueError, match=r"lacks \[PAD\] and \[SEG\]; is added_tokens.json missing"):
        PsalmProcessor.from_pretrained(tmp_path)
