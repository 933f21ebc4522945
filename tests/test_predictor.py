"""PsalmPredictor: its results are those of processor, model and post-processing; an image is encoded once; threads do not disturb."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from psalm_hf import PsalmForSegmentation, PsalmPredictor, PsalmProcessor, load_image, tiny_checkpoint
from psalm_hf.data.shapes.scene import make_scene
from psalm_hf.model.image_processing_psalm import Placement
from psalm_hf.tiny import build_tiny
from tests.test_imports import ROOT

FILE = str(ROOT / "examples" / "pictures" / "shapes.png")
IMAGE = load_image(FILE)
WIDE = IMAGE.resize((300, 170))
NAMES = ["triangle", "cross", "grass"]
REGIONS = [{"point": (88, 23)}, {"box": (91, 61, 121, 91)}, {"scribble": [(28, 95), (34, 100)]}, {"mask": np.eye(128, dtype=bool)}]
PROMPTS = {
    "panoptic": {"categories": NAMES, "stuff": ["grass"]},
    "semantic": {"categories": NAMES, "task": "semantic"},
    "instance": {"categories": NAMES, "instances": True},
    "expressions": {"expressions": ["the purple triangle", "the yellow moon", "all dotted things"]},
    "regions": {"regions": REGIONS},
}


@pytest.fixture(scope="module")
def loaded():
    model = PsalmForSegmentation.from_pretrained(tiny_checkpoint()).eval()
    return model, PsalmProcessor.from_pretrained(tiny_checkpoint())


@pytest.fixture
def predictor(loaded):
    return PsalmPredictor(*loaded, reuse_prefix=False)


@pytest.fixture
def vision_calls(loaded):
    calls = []
    hook = loaded[0].model.vision_tower.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    yield calls
    hook.remove()


def by_hand(loaded, image, prompt):
    """(label, score, mask) of every segment, by the processor, the model and one of the methods `post_process_*`."""
    model, processor = loaded
    arguments = {name: prompt[name] for name in ("categories", "expressions", "regions") if name in prompt}
    task = "instance" if prompt.get("instances") else prompt.get("task", "panoptic")
    inputs = processor(images=image, task=task, **arguments)
    with torch.inference_mode():
        outputs = model(**inputs)
    sizes = inputs["original_sizes"]
    if "expressions" in prompt:
        found = processor.post_process_referring_segmentation(outputs, target_sizes=sizes)
        named = zip(prompt["expressions"], found, strict=True)
        return [(name, one["score"], one["segmentation"]) for name, one in named if not one["no_target"]]
    if "regions" in prompt:
        (found,) = processor.post_process_region_segmentation(outputs, target_sizes=sizes)
        kinds = [next(iter(region)) for region in prompt["regions"]]
        return list(zip(kinds, found["scores"].tolist(), found["masks"], strict=True))
    names = prompt["categories"]
    if task == "semantic":
        (labels,) = processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)
        return [(names[index], None, labels == index) for index in labels.unique().tolist()]
    if task == "instance":
        (found,) = processor.post_process_instance_segmentation(outputs, threshold=0.5, target_sizes=sizes, return_binary_maps=True)
        masks = found["segmentation"]
    else:
        fused = {names.index(name) for name in prompt["stuff"]}
        (found,) = processor.post_process_panoptic_segmentation(outputs, target_sizes=sizes, label_ids_to_fuse=fused)
        masks = [found["segmentation"] == info["id"] for info in found["segments_info"]]
    return [(names[info["label_id"]], info["score"], mask) for info, mask in zip(found["segments_info"], masks, strict=True)]


@pytest.mark.parametrize("image", [IMAGE, WIDE], ids=["its size", "another size"])
@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_a_result_is_bit_for_bit_that_of_processor_model_and_post_processing(loaded, predictor, prompt, image):
    if "regions" in prompt:
        prompt = {"regions": [region for region in prompt["regions"] if "mask" not in region or image is IMAGE]}
    predictor.predict(image, expressions="something else")  # what was asked before changes nothing
    result = predictor.predict(image, **prompt)
    labels, scores, masks = zip(*by_hand(loaded, image, prompt), strict=True)
    assert result.labels == list(labels)
    assert [None if np.isnan(score) else score for score in result.scores] == list(scores)
    assert (result.masks == torch.stack(masks).numpy()).all() and result.masks.dtype == bool


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_with_the_beginning_of_an_earlier_prompt_scores_are_close_and_masks_differ_only_where_a_logit_is_zero(loaded, prompt):
    predictor = PsalmPredictor(*loaded)
    predictor.predict(IMAGE, expressions="something else")
    assert predictor.encode(IMAGE).features.prefix is not None
    result, expected = predictor.predict(IMAGE, **prompt), PsalmPredictor(*loaded, reuse_prefix=False).predict(IMAGE, **prompt)
    assert result.labels == expected.labels
    np.testing.assert_allclose(result.scores, expected.scores, atol=1e-4)
    if "task" in prompt or "stuff" in prompt:  # pixels are compared between queries: few may change sides
        assert (result.masks != expected.masks).mean() < 1e-4
        return
    arguments = {name: prompt[name] for name in ("categories", "expressions", "regions") if name in prompt}
    inputs = loaded[1](images=IMAGE, task="instance" if prompt.get("instances") else "panoptic", **arguments)
    with torch.inference_mode():
        logits = loaded[0](**inputs).masks_queries_logits
    is_near = (Placement.of_image((128, 128), 128).restore(logits.flatten(0, 1)).abs() < 1e-4).any(0).numpy()
    assert is_near[(result.masks != expected.masks).any(0)].all()


def test_a_question_is_answered_as_by_generate(loaded, predictor):
    model, processor = loaded
    inputs = processor(images=IMAGE, conversations=[{"role": "user", "content": "How many triangles are there?"}])
    tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    result = predictor.predict(IMAGE, question="How many triangles are there?", max_new_tokens=8)
    assert result.text == processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0].strip()
    assert result.text and len(result) == 0 and str(result) == result.text


def test_an_image_is_encoded_once_for_all_prompts_and_forms(predictor, vision_calls, tmp_path):
    predictor.set_image(FILE)
    for prompt in PROMPTS.values():
        predictor.predict(**prompt)
    predictor.predict(question="How many triangles are there?", max_new_tokens=2)
    predictor.predict(IMAGE, **PROMPTS["regions"])
    predictor.predict(np.asarray(IMAGE), expressions="this")
    assert vision_calls == [1]


def test_several_prompts_share_one_pass(predictor, loaded, monkeypatch):
    calls = []
    hook = loaded[0].mask_decoder.register_forward_pre_hook(lambda module, args: calls.append(1))
    results = predictor.predict_all(list(PROMPTS.values())[2:], IMAGE)
    hook.remove()
    assert len(calls) == 1
    for result, prompt in zip(results, list(PROMPTS.values())[2:], strict=True):
        expected = predictor.predict(IMAGE, **prompt)
        assert result.phrases == expected.phrases
        np.testing.assert_allclose(result.scores, expected.scores, atol=1e-4)


BATCH = {
    "the same categories": [(number, [PROMPTS["panoptic"]]) for number in range(3)],
    "each its own": [(0, [PROMPTS["regions"]]), (1, [PROMPTS["expressions"], PROMPTS["instance"]]), (2, [{"categories": ["moon"]}])],
    "an image twice, and several tasks": [(0, [PROMPTS["semantic"]]), (1, [PROMPTS["panoptic"]]), (0, [{"expressions": "a cross"}])],
    "a question among others": [(1, [{"question": "How many?", "max_new_tokens": 2}]), (0, [PROMPTS["instance"]])],
}


@pytest.mark.parametrize("batch", BATCH.values(), ids=BATCH)
def test_a_batch_of_images_gives_each_what_it_gets_alone(loaded, predictor, vision_calls, batch):
    scene = Image.fromarray(make_scene("test", 3, image_size=128).image)
    images = [IMAGE, WIDE.crop((20, 10, 300, 170)), scene]
    found = predictor.predict_batch([(images[number], prompts) for number, prompts in batch])
    assert vision_calls == [len({number for number, _ in batch})]
    for (number, prompts), results in zip(batch, found, strict=True):
        for prompt, result in zip(prompts, results, strict=True):
            expected = PsalmPredictor(*loaded, reuse_prefix=False).predict(images[number], **prompt)
            assert (result.image.size, result.labels, result.text) == (images[number].size, expected.labels, expected.text)
            np.testing.assert_allclose(result.scores, expected.scores, atol=1e-4)
            assert (result.masks != expected.masks).mean() < 1e-3 if len(expected) else len(result) == 0


def test_a_batch_takes_kept_features_and_keeps_its_own(loaded, vision_calls):
    predictor = PsalmPredictor(*loaded, cached_images=2)
    first, second, third = (Image.new("RGB", (20, 10), color) for color in ("red", "green", "blue"))
    predictor.encode(first)
    prompt = [{"expressions": "this"}]
    predictor.predict_batch([(first, prompt), (second, prompt), (second, prompt), (third, prompt)])
    assert vision_calls == [1, 2]
    predictor.encode(third)
    kept = predictor.encode(second)
    assert vision_calls == [1, 2] and kept.features.mask_features.untyped_storage().nbytes() == kept.features.mask_features.nbytes
    assert predictor.predict_batch([]) == []


def test_images_of_the_same_bytes_and_another_size_are_different(predictor):
    flat = np.arange(6 * 4 * 3, dtype=np.uint8)
    high, wide = (predictor.encode(flat.reshape(*size, 3)) for size in ((6, 4), (4, 6)))
    assert high.features is not wide.features and (high.image.size, wide.image.size) == ((4, 6), (6, 4))


def test_features_of_the_images_used_last_are_kept(loaded, vision_calls):
    predictor = PsalmPredictor(*loaded, cached_images=2)
    first, second, third = (Image.new("RGB", (20, 10), color) for color in ("red", "green", "blue"))
    for image in (first, second, first, third, first):
        predictor.encode(image)
    assert len(vision_calls) == 3
    predictor.encode(second)
    assert len(vision_calls) == 4


def test_the_image_that_was_set_stays_though_its_features_are_kept_no_more(loaded, vision_calls):
    predictor = PsalmPredictor(*loaded, cached_images=1)
    predictor.set_image(IMAGE)
    predictor.predict(WIDE, regions={"point": (5, 5)})
    assert predictor.predict(regions={"point": (5, 5)}).image.size == IMAGE.size
    assert len(vision_calls) == 2


def test_a_result_names_the_file_that_was_given_and_no_other_with_the_same_pixels(predictor, tmp_path):
    IMAGE.save(tmp_path / "copy.png")
    prompt = {"regions": {"point": (5, 5)}}
    sources = [predictor.predict(image, **prompt).source for image in (FILE, tmp_path / "copy.png", IMAGE)]
    assert sources == [FILE, str(tmp_path / "copy.png"), None]


def test_a_changed_array_is_another_image(predictor, vision_calls):
    array = np.asarray(IMAGE).copy()
    predictor.encode(array)
    array[0, 0] = 255 - array[0, 0]
    predictor.encode(array)
    assert len(vision_calls) == 2


def test_threads_get_what_they_ask_for(loaded, predictor, vision_calls):
    images = [Image.fromarray(make_scene("test", number, image_size=128).image) for number in range(3)]
    jobs = [(number % 3, name) for number in range(24) for name in [list(PROMPTS)[number % 5]]]
    expected = {(number, name): predictor.predict(images[number], **PROMPTS[name]) for number, name in set(jobs)}
    vision_calls.clear()
    fresh = PsalmPredictor(*loaded, reuse_prefix=False)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda job: fresh.predict(images[job[0]], **PROMPTS[job[1]]), jobs))
    assert vision_calls == [1, 1, 1]
    for job, result in zip(jobs, found, strict=True):
        assert result.phrases == expected[job].phrases and (result.masks == expected[job].masks).all()


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_a_vocabulary_that_does_not_fit_is_divided(task):
    model, processor = build_tiny()
    names = [f"thing number {number}" for number in range(60)]
    processor.max_length = 700
    with pytest.raises(ValueError, match="at most 700 fit"):
        processor(images=IMAGE, categories=names)
    options = {} if task == "semantic" else {"threshold": 0.0}
    result = PsalmPredictor(model, processor).predict(IMAGE, categories=names, task=task, **options)
    assert len(result) and result.label_ids.max() < 60
    assert result.labels == [names[index] for index in result.label_ids]
    assert result.masks.shape[1:] == (128, 128)


def test_thresholds_of_expressions_are_those_of_the_processor_unless_given(predictor):
    absent = predictor.predict(IMAGE, expressions="the yellow moon")
    assert len(absent) == 0 and list(absent.absent) == ["the yellow moon"] and absent.masks.shape == (0, 128, 128)
    assert len(predictor.predict(IMAGE, expressions="the yellow moon", no_target_threshold=0)) == 1
    united, best = (predictor.predict(IMAGE, expressions="all dotted things", threshold=value) for value in (None, 1))
    assert 0 < best.areas[0] < united.areas[0]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({}, "expected one kind of prompt, got none"),
        ({"categories": NAMES, "expressions": "this"}, "got categories and expressions"),
        ({"categories": NAMES, "stuff": ["sea"]}, "stuff: 'sea' not among the categories"),
        ({"categories": "cup"}, "categories: expected a list of names, got 'cup'"),
        ({"categories": NAMES, "task": "depth"}, "task: expected one of panoptic, semantic, instance, got 'depth'"),
        ({"categories": NAMES, "task": "semantic", "threshold": 0.5}, "a semantic map has none"),
        ({"categories": NAMES, "task": "panoptic", "instances": True}, 'they are task="instance"'),
        ({"regions": REGIONS, "task": "panoptic"}, "task belongs to categories, not to regions"),
        ({"regions": REGIONS, "threshold": 0.5}, "threshold: regions have none"),
        ({"regions": [{"point": (500, 3)}]}, "image 0, region 0: the point"),
        ({"expressions": ["  "]}, "expression 0: is blank"),
        ({"categories": NAMES, "no_target_threshold": 0.5}, "no_target_threshold belongs to expressions, not to categories"),
        ({"regions": REGIONS, "no_target_threshold": 0}, "no_target_threshold belongs to expressions, not to regions"),
        ({"categories": NAMES, "task": "semantic", "mask_threshold": 0.6}, "mask_threshold belongs to masks that are decided one by one"),
        ({"question": "how many?", "mask_threshold": 0.6}, "one by one, not to question; leave it out"),
        ({"categories": NAMES, "instances": True, "overlap_mask_area_threshold": 0.5}, "panoptic categories, not to instance categories;"),
        ({"expressions": "this", "overlap_mask_area_threshold": 0.5}, "panoptic categories, not to expressions; leave it out"),
        ({"regions": REGIONS, "max_new_tokens": 8}, "max_new_tokens belongs to questions, not to regions; leave it out"),
        ({"expressions": 5}, "expressions: expected a sentence, or a list of sentences or of lists of them, got 5"),
        ({"expressions": ["this", 5]}, "or a list of sentences or of lists of them, got 5"),
        ({"expressions": [["this", 5]]}, "or a list of sentences or of lists of them, got ['this', 5]"),
        ({"regions": 5}, 'regions: expected dictionaries such as {"point": (x, y)}, got 5'),
        ({"regions": [(88, 23)]}, 'regions: expected dictionaries such as {"point": (x, y)}, got (88, 23)'),
        ({"question": []}, "question: expected a text, or a list of messages"),
        ({"question": ["how many?"]}, "question: expected a text, or a list of messages"),
    ],
)  # fmt: skip
def test_a_wrong_prompt_is_named(predictor, prompt, message):
    with pytest.raises(ValueError) as caught:
        predictor.predict(IMAGE, **prompt)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "advice"),
    [
        ({"categories": NAMES, "instances": True, "threshold": 0.0}, "or give a higher threshold"),
        ({"categories": NAMES, "threshold": 0.3}, "or give a higher threshold"),
        ({"categories": NAMES, "task": "semantic"}, "ask for fewer names$"),
        ({"expressions": ["all dotted things", "the cross"], "instances": True, "threshold": 0.1}, "or give a higher threshold"),
    ],
)
def test_more_masks_than_may_be_answered_are_refused_before_they_are_made(loaded, monkeypatch, prompt, advice):
    number = len(PsalmPredictor(*loaded).predict(WIDE, **prompt))
    assert number > 1
    assert len(PsalmPredictor(*loaded, max_mask_pixels=number * 300 * 170).predict(WIDE, **prompt)) == number
    sizes, original = [], PsalmProcessor.find_segments

    def find_segments(processor, outputs, rows, target_sizes, **options):
        sizes.extend(target_sizes)
        return original(processor, outputs, rows, target_sizes, **options)

    monkeypatch.setattr(PsalmProcessor, "find_segments", find_segments)
    with pytest.raises(ValueError, match=rf"^{number} masks of 300 x 170 pixels are found, .*{advice}"):
        PsalmPredictor(*loaded, max_mask_pixels=number * 300 * 170 - 1).predict(WIDE, **prompt)
    assert set(sizes) == {(145, 256)}
    assert len(PsalmPredictor(*loaded, max_mask_pixels=1).predict(WIDE, regions=REGIONS[:2])) == 2  # as many as were given


def test_a_prompt_needs_an_image(predictor):
    with pytest.raises(ValueError, match="call set_image first"):
        predictor.predict(expressions="this")


def test_an_image_that_cannot_be_read_changes_nothing(predictor):
    predictor.set_image(FILE)
    with pytest.raises(ValueError, match="no such file"):
        predictor.set_image("missing.png")
    assert predictor.image.size == (128, 128)


def test_psalm_tiny_is_the_default_checkpoint():
    predictor = PsalmPredictor.from_pretrained(device="cpu")
    assert predictor.checkpoint == "psalm-tiny" and predictor.model.dtype == torch.float32 and not predictor.model.training
    assert PsalmPredictor.from_pretrained(tiny_checkpoint(), device="cpu", dtype="bfloat16").model.dtype == torch.bfloat16


SMALL = {"regions": [{"box": (91, 61, 121, 91)}, {"mask": np.eye(128, dtype=bool)}]}  # the second is large


def test_zoom_asks_crops_of_what_is_small_and_keeps_no_features_of_them(predictor, vision_calls):
    plain = predictor.predict(IMAGE, **SMALL)
    zoomed = predictor.predict(IMAGE, zoom="auto", **SMALL)
    assert vision_calls == [1, 2] and len(predictor._images) == 1  # a crop of 5 times 30 pixels would be the image
    assert (zoomed.masks[1] == plain.masks[1]).all() and zoomed.scores[1] == plain.scores[1]
    assert (zoomed.masks[0] & plain.masks[0]).sum() > 0.8 * (zoomed.masks[0] | plain.masks[0]).sum()
    together = predictor.predict_all([SMALL, {"zoom": "auto", **SMALL}], IMAGE)
    assert [(found.masks == expected.masks).all() for found, expected in zip(together, (plain, zoomed), strict=True)] == [True, True]


@pytest.mark.parametrize("name", ["panoptic", "semantic", "instance", "expressions"])
def test_tiles_of_a_large_image_are_asked_together_and_joined(predictor, vision_calls, name):
    large = IMAGE.resize((256, 256))
    found = predictor.predict(large, tiles=(2, 2), **PROMPTS[name])
    assert vision_calls == [1, 4] and len(predictor._images) == 1
    whole = predictor.predict(IMAGE, **PROMPTS[name])
    assert found.masks.shape[1:] == (256, 256) and set(found.labels) & set(whole.labels)
    assert found.prompt == replace(whole.prompt, tiles=(2, 2)) and found.image.size == (256, 256)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"question": "what is this?", "tiles": 64}, "tiles belong to categories and expressions, not to question"),
        ({"regions": REGIONS, "tiles": 64}, "a small region is found with zoom"),
        ({"expressions": "a cup", "tiles": 64, "zoom": "auto"}, "exclude each other"),
        ({"categories": NAMES, "tiles": 128}, "one tile of 128 pixels holds the whole 128 x 128 image"),
        ({"categories": NAMES, "tiles": "64"}, "tiles: expected pixels"),
        ({"categories": NAMES, "zoom": "auto"}, "not to categories"),
        ({"question": "what is this?", "zoom": "auto"}, "not to question"),
        ({"expressions": "a cup", "instances": True, "zoom": "auto"}, "not to instances"),
        ({"regions": REGIONS, "zoom": 2}, 'expected "auto" or None, got 2'),
    ],
)
def test_senseless_zoom_and_tiles_are_refused_before_anything_is_segmented(predictor, prompt, message):
    with pytest.raises(ValueError, match=message):
        predictor.predict(IMAGE, **prompt)
