"""Requests that are answered together: passes, one bad request among good ones, and the forms of masks."""

import asyncio
import base64
import io
import json
import threading

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("pydantic")

from psalm_hf import PsalmForSegmentation, PsalmPredictor, PsalmProcessor, tiny_checkpoint
from psalm_hf.data.shapes.scene import make_scene
from psalm_hf.masks import bitmap_from_polygons, bitmap_from_rle
from psalm_hf.result import Prompt, PsalmResult
from psalm_hf.scale.answer import answer_of
from psalm_hf.scale.request import MASK_FORMS, AskedPrompt, RefusedRequest
from psalm_hf.scale.service import MAX_ROWS, RequestQueue, answer_together

IMAGES = [Image.fromarray(make_scene("test", number).image) for number in range(3)]
NAMES = ["triangle", "cross", "grass"]
PROMPTS = [
    (0, {"categories": NAMES, "stuff": ["grass"]}),
    (1, {"expressions": ["the purple triangle", "the yellow moon"]}),
    (0, {"expressions": ["all dotted things"], "threshold": 1.0}),
    (2, {"regions": [{"point": (60, 60)}, {"box": (20, 20, 90, 90)}]}),
    (1, {"categories": NAMES, "task": "semantic"}),
    (2, {"question": "how many crosses are there?"}),
    (1, {"categories": ["star"], "instances": True}),
]


@pytest.fixture(scope="module")
def loaded():
    return PsalmForSegmentation.from_pretrained(tiny_checkpoint()), PsalmProcessor.from_pretrained(tiny_checkpoint())


@pytest.fixture
def predictor(loaded):
    return PsalmPredictor(*loaded)


@pytest.fixture
def passes(predictor, monkeypatch):
    """Prompts of each call of `predict_batch`."""
    calls, original = [], predictor.predict_batch

    def predict_batch(requests):
        calls.append([prompt for _, prompts in requests for prompt in prompts])
        return original(requests)

    monkeypatch.setattr(predictor, "predict_batch", predict_batch)
    return calls


def asked(image, prompt):
    return AskedPrompt(IMAGES[image].copy(), b"%d" % image, prompt, "rle")


def assert_same(result, expected):
    assert (result.labels, result.text, result.image.size) == (expected.labels, expected.text, expected.image.size)
    assert np.allclose(result.scores, expected.scores, atol=1e-4, equal_nan=True)
    assert (result.masks ^ expected.masks).sum() <= 2  # pixels at the threshold


def test_each_request_gets_what_the_predictor_gives_it_alone(predictor, loaded):
    results = answer_together(predictor, [asked(*one) for one in PROMPTS])
    alone = PsalmPredictor(*loaded)
    for (image, prompt), result in zip(PROMPTS, results, strict=True):
        assert_same(result, alone.predict(IMAGES[image], **prompt))


def test_an_image_is_encoded_once_and_only_questions_have_passes_of_their_own(predictor, passes):
    calls = []
    with predictor.model.model.vision_tower.register_forward_pre_hook(lambda module, args: calls.append(len(args[0]))):
        answer_together(predictor, [asked(*one) for one in PROMPTS])
    assert sum(calls) == 3
    assert [len(prompts) for prompts in passes] == [1, 6] and "question" in passes[0][0]


def test_a_pass_has_a_bounded_number_of_rows(predictor, monkeypatch):
    rows = []
    monkeypatch.setattr(predictor, "predict_batch", lambda requests: rows.append(len(requests)) or [["found"]] * len(requests))
    many = {"expressions": ["all stars"] * (MAX_ROWS // 2)}
    assert answer_together(predictor, [asked(0, many)] * 5) == ["found"] * 5
    assert rows == [2, 2, 1]


def test_a_bad_request_fails_alone_with_its_own_message(predictor, loaded, passes):
    bad = {2: {"regions": [{"point": (500, 5)}]}, 5: {"categories": ["cross", "cross"]}}
    prompts = [
        bad.get(number, {"expressions": [f"the {name}"]}) for number, name in enumerate(["star", "cross", "", "ring", "moon", "", "heart"])
    ]
    results = answer_together(predictor, [asked(number % 3, prompt) for number, prompt in enumerate(prompts)])
    alone = PsalmPredictor(*loaded)
    for number, result in enumerate(results):
        if number in bad:
            assert isinstance(result, RefusedRequest) and result.status == 422
        else:
            assert_same(result, alone.predict(IMAGES[number % 3], **prompts[number]))
    assert str(results[2]).startswith("region 0: the point (x, y) = (500.0, 5.0) lies outside of its image")
    assert "cross" in str(results[5])
    assert len(passes) <= 13  # halves, not each by itself: a bad one costs the others at most what they are without batches


def test_more_masks_than_an_answer_may_hold_are_refused_with_what_to_do(loaded):
    predictor = PsalmPredictor(*loaded, max_mask_pixels=2 * 128 * 128)
    many = {"categories": NAMES, "instances": True, "threshold": 0.0}
    refused, answered = answer_together(predictor, [asked(0, many), asked(0, {"categories": NAMES, "threshold": 1.0})])
    assert refused.status == 422 and "masks of 128 x 128 pixels are found, and at most 32768 pixels are answered; make" in str(refused)
    assert len(answered) <= 2


def test_a_failure_of_the_model_is_not_blamed_on_the_request_and_spares_the_others(predictor, monkeypatch, caplog):
    def fail(requests):
        if any(prompt["expressions"] == ["b"] for _, prompts in requests for prompt in prompts):
            raise torch.OutOfMemoryError("of 16 GB, folder /home/me")
        return [["found"]] * len(requests)

    monkeypatch.setattr(predictor, "predict_batch", fail)
    first, second, third = answer_together(predictor, [asked(0, {"expressions": [name]}) for name in "abc"])
    assert (first, third) == ("found", "found")
    assert second.status == 500 and "OutOfMemoryError" in str(second) and "/home/me" not in str(second)
    assert "/home/me" in caplog.text


class SlowModel:
    """Answers a request with its number, when it may; `batches` are the numbers that it was given together."""

    def __init__(self):
        self.batches, self.may_answer = [], threading.Semaphore(0)

    def __call__(self, asked):
        numbers = [one.prompt["number"] for one in asked]
        self.batches.append(numbers)
        assert self.may_answer.acquire(timeout=60)
        if "fail" in numbers:
            raise RuntimeError("failed")
        return numbers


async def given(model, number):
    """Waits until the model was given so many batches."""
    while len(model.batches) < number:
        await asyncio.sleep(0.001)


def numbered(number, image=0, **prompt):
    return AskedPrompt(IMAGES[0], b"%d" % image, {"number": number, **prompt}, "rle")


def test_requests_gather_while_the_model_computes():
    async def run():
        model = SlowModel()
        queue = RequestQueue(model, 4, 0)
        tasks = [asyncio.create_task(queue.answer(numbered(0)))]
        await given(model, 1)
        for number in range(1, 7):  # one after the other, not at once
            tasks.append(asyncio.create_task(queue.answer(numbered(number))))
            await asyncio.sleep(0.002)
        model.may_answer.release(3)
        assert await asyncio.gather(*tasks) == list(range(7))  # each its own
        assert model.batches == [[0], [1, 2, 3, 4], [5, 6]]

    asyncio.run(run())


def test_a_free_model_waits_for_a_full_batch():
    async def run():
        model = SlowModel()
        model.may_answer.release(1)
        queue = RequestQueue(model, 3, 60)  # a minute, which a full batch ends
        tasks = []
        for number in range(3):
            tasks.append(asyncio.create_task(queue.answer(numbered(number))))
            await asyncio.sleep(0.002)
        await asyncio.gather(*tasks)
        assert model.batches == [[0, 1, 2]]

    asyncio.run(run())


def test_requests_about_one_image_go_together_questions_alone_and_nobody_is_overtaken_for_ever():
    async def run():
        model = SlowModel()
        queue = RequestQueue(model, 3, 0)
        tasks = [asyncio.create_task(queue.answer(numbered("first")))]
        await given(model, 1)
        waiting = [("a", 1, {}), ("b", 2, {}), ("question", 1, {"question": "?"}), ("c", 2, {}), ("d", 1, {}), ("e", 1, {}), ("f", 2, {})]
        for number, image, prompt in waiting:
            tasks.append(asyncio.create_task(queue.answer(numbered(number, image, **prompt))))
        await asyncio.sleep(0)
        model.may_answer.release(4)
        await asyncio.gather(*tasks)
        assert model.batches == [["first"], ["a", "d", "e"], ["b", "c", "f"], ["question"]]

    asyncio.run(run())


def test_a_request_whose_client_has_gone_is_not_computed_and_a_failure_ends_its_batch_alone():
    async def run():
        model = SlowModel()
        queue = RequestQueue(model, 2, 0)
        names = ["first", "gone", "fail", "with it", "last"]
        tasks = {}
        for name in names:
            tasks[name] = asyncio.create_task(queue.answer(numbered(name)))
            await given(model, 1)
        await asyncio.sleep(0)
        tasks["gone"].cancel()
        model.may_answer.release(3)
        results = await asyncio.gather(*tasks.values(), return_exceptions=True)
        assert model.batches == [["first"], ["fail", "with it"], ["last"]]
        assert [str(result) for result in results] == ["first", "", "failed", "failed", "last"]

    asyncio.run(run())


def result_with(masks, task="panoptic"):
    masks = np.asarray(masks, dtype=bool)
    prompt = Prompt("category", ("cup",), task)
    image = Image.new("RGB", masks.shape[:0:-1])
    return PsalmResult(image, prompt, masks, np.linspace(0.5, 1, len(masks)), np.zeros(len(masks), dtype=np.int64))


def read_masks(answer, form):
    """(N, H, W) bool of an answer, as a client reads it."""
    if form == "label_map":
        numbers = np.asarray(png(answer["label_map"]))
        return np.stack([numbers == number for number in range(1, len(answer["segments"]) + 1)])
    readers = {
        "rle": bitmap_from_rle,
        "polygons": lambda polygons: bitmap_from_polygons(polygons, answer["image_size"]),
        "png": lambda text: np.asarray(png(text)) != 0,
    }
    return np.stack([readers[form](segment[form]) for segment in answer["segments"]])


def png(text):
    return Image.open(io.BytesIO(base64.b64decode(text, validate=True)))


@pytest.mark.parametrize("form", MASK_FORMS)
def test_masks_of_every_form_read_back_to_the_same_pixels(form):
    masks = np.zeros((3, 7, 9), dtype=bool)
    masks[0, 1:5, 1:6] = True
    masks[0, 2:4, 3] = False  # a hole
    masks[1, 6, ::2] = True  # parts
    masks[2, 0, 8] = True
    answer = json.loads(answer_of(result_with(masks), form, "a checkpoint").model_dump_json(exclude_none=True))
    assert np.array_equal(read_masks(answer, form), masks)
    assert answer["checkpoint"] == "a checkpoint" and answer["image_size"] == [7, 9]
    assert answer["segments"][1] | {form: ...} == {
        "label": "cup",
        "label_id": 0,
        "score": 0.75,
        "box": [0, 6, 9, 7],
        "area": 5,
        form: ...,
    } or (form == "label_map" and not {*MASK_FORMS} & answer["segments"][1].keys())


def test_a_label_map_of_many_segments_has_16_bits():
    masks = np.eye(300, dtype=bool).reshape(300, 15, 20)
    answer = json.loads(answer_of(result_with(masks), "label_map", "x").model_dump_json())
    assert np.array_equal(read_masks(answer, "label_map"), masks)


def test_an_answer_says_what_means_nothing_and_what_there_is_to_know(predictor):
    photograph = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8))
    found = answer_together(
        predictor, [AskedPrompt(photograph, b"", {"expressions": ["the moon"]}, "rle"), asked(0, {"question": "how many stars?"})]
    )
    moon, stars = (json.loads(answer_of(result, "rle", "x").model_dump_json(exclude_none=True)) for result in found)
    assert (moon["task"], moon["segments"], list(moon["absent"])) == ("referring", [], ["the moon"])
    assert "knows drawn shapes alone" in moon["note"]
    assert stars["task"] == "conversation" and stars["text"] and "absent" not in stars
