"""Questions to a model: what it is asked, what is written down, and that processes and resumption change nothing."""

import json
import pickle
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from psalm_hf import PsalmForSegmentation, PsalmProcessor
from psalm_hf.data import load
from psalm_hf.data.features import ROW_FEATURES, SampleDataset, row_from_sample
from psalm_hf.evaluation.benchmarks import BENCHMARKS, BenchmarkPart, OpenPart, choices_of, open_part
from psalm_hf.evaluation.evaluators.text import ShapesQuestionEvaluator
from psalm_hf.evaluation.records import Records
from psalm_hf.evaluation.runner import Processes, evaluate_predictions, predict
from psalm_hf.evaluation.text import TextPredictor, question_of
from psalm_hf.structures import Sample
from psalm_hf.tiny import build_tiny
from tests.conftest import SAMPLES

TEXTS = ["What is it?", "Which colour has the thing on the left?", "Is there a cup?", "How many?", "Why?"]


@pytest.fixture(scope="module")
def tiny():
    """Random weights, with an attention so strong that answers depend on the picture and the question."""
    model, processor = build_tiny(seed=3)
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            for projection in layer.self_attn.children():
                projection.weight.mul_(15)
    return model, processor


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def question(number, image, reply="a secret"):
    messages = [{"role": "user", "content": TEXTS[number % len(TEXTS)]}, {"role": "assistant", "content": reply}]
    size = None if image is None else (40, 60)
    return Sample(image, "1", size, conversation=tuple(messages), record_id=str(number), tags=("count",))


def part_of(*samples, measure=ShapesQuestionEvaluator):
    rows = datasets.Dataset.from_list([row_from_sample(sample) for sample in samples], features=ROW_FEATURES)
    return OpenPart(BenchmarkPart("shapes", "conversation"), None, "test", {}, SampleDataset(rows, ()), {}, (measure(),))


@pytest.fixture
def part():
    """Seven questions about two pictures and about none."""
    first, second = picture(0), picture(1)
    return part_of(*(question(number, image) for number, image in enumerate([first, first, second, None, second, first, None])))


class Alone(Processes):
    """One of several, the others of which run before or after it."""

    def wait(self):
        pass


class ShortTexts(TextPredictor):
    max_new_tokens = 5


def run(folder, part, model, processor, rank=0, number=1, kind=ShortTexts, **options):
    predict(kind(model, processor, part, {}), Records(folder, rank), Alone(rank, number), **({"batch_size": 3} | options))
    return answers_in(folder)


def answers_in(folder):
    return {row: found["text"]["text"] for row, found in Records(folder).predictions().items()}


def test_answers_are_those_to_the_questions_alone(tmp_path, part, tiny):
    model, processor = tiny
    found = run(tmp_path, part, *tiny)
    assert sorted(found) == list(range(7)) and len(set(found.values())) > 3
    for row, sample in enumerate(part.dataset):
        image = None if sample.image is None else (picture(0), picture(1))[row in (2, 4)]
        inputs = processor(images=[image], conversations=[[dict(sample.conversation[0])]])
        tokens = model.generate(**inputs, max_new_tokens=5, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        assert found[row] == processor.tokenizer.decode(tokens[0], skip_special_tokens=True).strip()


def test_the_prompt_ends_with_the_question(tmp_path, part, tiny, monkeypatch):
    model, processor = tiny
    asked, generate = [], model.generate
    monkeypatch.setattr(model, "generate", lambda **inputs: asked.append(inputs) or generate(**inputs))
    run(tmp_path, part, *tiny)
    assert [len(inputs["input_ids"]) for inputs in asked] == [3, 3, 1]
    assert [len(inputs["pixel_values"]) for inputs in asked[:2]] == [2, 2]  # the first three rows are about two pictures
    for inputs in asked:
        assert "labels" not in inputs
        for text in processor.tokenizer.batch_decode(inputs["input_ids"]):
            assert text.endswith(" [/INST]") and "secret" not in text


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_processes_give_the_same_answers(tmp_path, part, tiny, order, monkeypatch):
    expected = run(tmp_path / "one", part, *tiny)
    places = Records.places
    for rank in order:  # as if both had looked before anyone wrote
        with monkeypatch.context() as patched:
            patched.setattr(Records, "places", lambda records: {})
            predict(ShortTexts(*tiny, part, {}), Records(tmp_path / "two", rank), Alone(rank, 2), batch_size=3)
    assert Records.places is places
    assert answers_in(tmp_path / "two") == expected
    written = {path.name: [json.loads(line)["row"] for line in path.read_text().splitlines()] for path in (tmp_path / "two").iterdir()}
    assert written == {"000.jsonl": [0, 1, 2, 6], "001.jsonl": [3, 4, 5]}


def test_only_what_has_no_answer_is_asked(tmp_path, part, tiny):
    expected = run(tmp_path / "whole", part, *tiny)
    Records(tmp_path / "resumed").append([(1, {"text": {"text": "kept"}}), (4, {"text": {"text": "kept too"}})])
    assert run(tmp_path / "resumed", part, *tiny) == expected | {1: "kept", 4: "kept too"}
    before = (tmp_path / "resumed" / "000.jsonl").read_bytes()
    run(tmp_path / "resumed", part, *tiny)
    assert (tmp_path / "resumed" / "000.jsonl").read_bytes() == before


def test_worker_processes_change_nothing(tmp_path, part, tiny):
    assert run(tmp_path / "with", part, *tiny, num_workers=1) == run(tmp_path / "without", part, *tiny)


def test_long_answers_are_cut_off(tmp_path, part, tiny):
    kinds = [type("Texts", (TextPredictor,), {"max_new_tokens": longest}) for longest in (1, 9)]
    lengths = [[len(text) for text in run(tmp_path / str(number), part, *tiny, kind=kind).values()] for number, kind in enumerate(kinds)]
    assert max(lengths[0]) <= 1 < max(lengths[1])


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (("assistant",), "image 1, question 0: expected one message of the user, got a conversation of assistant"),
        (("user", "assistant", "user"), "got a conversation of user, assistant, user"),
    ],
)
def test_a_row_that_is_not_one_question_is_refused(tmp_path, tiny, roles, message):
    sample = replace(question(0, picture(0)), conversation=tuple({"role": role, "content": "Hm."} for role in roles))
    with pytest.raises(ValueError, match=message):
        run(tmp_path, part_of(sample), *tiny)
    with pytest.raises(ValueError, match="got a prompt of the kind sentence"):
        question_of(replace(sample, conversation=(), expressions=("this",)))


def test_a_missing_picture_is_named_and_what_was_answered_stays(tmp_path, tiny):
    samples = [question(0, picture(0)), question(1, picture(0)), replace(question(2, str(tmp_path / "absent.jpg")), image_id="2")]
    with pytest.raises(ValueError, match=r"image 2: cannot be read from .*absent.jpg"):
        run(tmp_path / "out", part_of(*samples), *tiny, batch_size=2)
    assert sorted(answers_in(tmp_path / "out")) == [0, 1]


def test_a_question_about_a_picture_that_the_row_lacks_is_refused(tmp_path, tiny):
    sample = replace(question(0, None), conversation=({"role": "user", "content": "What is on <image>?"},))
    with pytest.raises(ValueError, match=r"<image> is mentioned 1 times, but there is no image \(images of this batch: 0 = 1\)"):
        run(tmp_path, part_of(sample), *tiny)


# Questions about shapes


def judged(*answered):
    measure = ShapesQuestionEvaluator()
    for number, (kind, right, text) in enumerate(answered):
        measure.add(replace(question(number, None, reply=right), tags=(kind,)), {"text": text})
    return measure


ANSWERED = [("count", "2", "2"), ("count", "2", " 3"), ("count", "2", "3"), ("color", "red", "Red"), ("color", "red", " red ")]


def test_exact_answers_by_kind_and_the_most_common_mistakes():
    measure = judged(*ANSWERED)
    assert measure.numbers() == {
        "text accuracy": 40,
        "text accuracy, question color": 50,
        "text accuracy, question count": pytest.approx(100 / 3),
    }
    assert measure.counts() == {"questions": 5}
    assert measure.metric.mistakes(1) == [("count", "2", "3", 2)]
    assert measure.metric.mistakes(9) == [("count", "2", "3", 2), ("color", "red", "Red", 1)]
    with pytest.raises(ValueError, match="nothing to compute"):
        ShapesQuestionEvaluator().numbers()


def test_default_evaluators_processes_add_up():
    total, whole = judged(*ANSWERED[:2]), judged(*ANSWERED)
    total += pickle.loads(pickle.dumps(judged(*ANSWERED[2:])))
    assert total.numbers() == whole.numbers() and total.counts() == whole.counts() and total.metric == whole.metric


def test_psalm_tiny_answers_better_than_the_most_frequent_answers(tmp_path, tiny_checkpoint):
    model, processor = PsalmForSegmentation.from_pretrained(tiny_checkpoint).eval(), PsalmProcessor.from_pretrained(tiny_checkpoint)
    dataset = load("shapes", "test", None, task="conversation", num_images=20, cache_dir=tmp_path / "cache")
    part = OpenPart(BenchmarkPart("shapes", "conversation"), None, "test", {}, dataset, {}, (ShapesQuestionEvaluator(),))
    run(tmp_path / "answers", part, model, processor, batch_size=16)
    (measure,) = evaluate_predictions(part, Records(tmp_path / "answers").predictions(), Processes())
    assert measure.numbers()["text accuracy"] > 50  # 61 over 200 pictures; 37 for the most frequent answer to each kind
    assert measure.counts() == {"questions": 80}


QUESTIONS = {
    "vqav2": ("val", "vqav2", {}),
    "scienceqa": ("test", "scienceqa", {}),
    "mmbench": ("dev", "mmbench", {}),
    "pope": ("all", ".", {"file": "pope/coco_pope_bundle_val2017.json", "image_folder": "coco/val2017"}),
}


@pytest.mark.samples
@pytest.mark.parametrize("name", QUESTIONS)
def test_real_questions_from_pictures_to_numbers(name, tmp_path, tiny_checkpoint):
    """Answers of psalm-tiny about photographs are senseless; they are asked for, written, read and evaluated like any."""
    split, folder, options = QUESTIONS[name]
    model, processor = PsalmForSegmentation.from_pretrained(tiny_checkpoint).eval(), PsalmProcessor.from_pretrained(tiny_checkpoint)
    further = options | {"cache_dir": tmp_path / "cache"}
    part = open_part(BENCHMARKS[name], BENCHMARKS[name].parts[0], split, str(SAMPLES / folder), choices_of(name, "community", {}), further)
    part = replace(part, dataset=part.dataset.first_images(4))
    found = run(tmp_path / "answers", part, model, processor, batch_size=8)
    assert len(found) == len(part.dataset) >= 4
    (measure,) = evaluate_predictions(part, Records(tmp_path / "answers").predictions(), Processes())
    assert 0 <= measure.numbers()["text accuracy"] <= 100
