"""Every path on a device other than the CPU: its tensors stay there, and the answers are those of the CPU.

On the device of `tests.pretend_device`, and on an accelerator where there is one (`-m gpu`).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from psalm_hf import PsalmForSegmentation, PsalmProcessor, PsalmVideoSession
from psalm_hf.data import load
from psalm_hf.data.collator import PsalmCollator
from psalm_hf.data.features import SampleDataset
from psalm_hf.data.mixture import open_source
from psalm_hf.data.shapes.scene import make_scene
from psalm_hf.devices import cpu_multiplies_bfloat16, kept_torch_state, pick_device
from psalm_hf.evaluation import evaluate
from psalm_hf.evaluation.benchmarks import BenchmarkPart, OpenPart, default_evaluators
from psalm_hf.evaluation.calibration import open_calibration, score_predictions
from psalm_hf.evaluation.evaluators.text import ShapesQuestionEvaluator
from psalm_hf.evaluation.evaluators.video import VideoEvaluator
from psalm_hf.evaluation.records import Records
from psalm_hf.evaluation.runner import CollateRows, MaskPredictor, Processes, evaluate_predictions, forward, predict
from psalm_hf.evaluation.text import TextPredictor
from psalm_hf.evaluation.video import VideoPredictor
from psalm_hf.model.losses import count_masks
from psalm_hf.pipeline import PromptableSegmentationPipeline
from psalm_hf.structures import Sample
from psalm_hf.tiny import build_tiny
from psalm_hf.video import FirstLastConfident, LastFrame, Released
from tests.pretend_device import pretend_device, waits

NAMES = ["triangle", "cross", "grass"]
EXPRESSIONS = ["the purple triangle", "all dotted things"]
REGIONS = [{"point": (88, 23)}, {"box": (91, 61, 121, 91)}, {"scribble": [(28, 95), (34, 100)]}]
QUESTION = [{"role": "user", "content": "How many crosses are there?"}]
LONGER = [{"role": "user", "content": "What colour has the thing on the left, and what is behind it?"}]


def scene(number: int) -> Image.Image:
    return Image.fromarray(make_scene("test", number, image_size=128).image)


@pytest.fixture(scope="module", params=["pretend", pytest.param("accelerator", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "pretend":
        with pretend_device() as device:
            yield device
        return
    name = next((name for name in ("cuda", "mps", "xpu") if getattr(torch, name).is_available()), None)
    if name is None:
        pytest.skip("this machine has no accelerator")
    yield torch.device(name, 0)


@pytest.fixture(scope="module")
def trained(tiny_checkpoint, device):
    """psalm-tiny on the CPU and on the device."""
    return [moved(PsalmForSegmentation.from_pretrained(tiny_checkpoint).eval(), place) for place in ("cpu", device)]


@pytest.fixture(scope="module")
def non_decoupled(device):
    """A model whose queries are the categories, on the CPU and on the device."""
    return [moved(build_tiny(decouple_masks=False)[0], place) for place in ("cpu", device)]


@pytest.fixture(scope="module")
def processor(tiny_checkpoint):
    return PsalmProcessor.from_pretrained(tiny_checkpoint)


def moved(model: Any, place: Any) -> Any:
    model.to(place).tie_weights()  # torch gives each name its own parameter, where those of the device are of another class
    return model


def prompt(processor: PsalmProcessor, device: torch.device, **prompts: Any) -> dict[str, Any]:
    """The inputs of a prompt, by default on one picture, on a device."""
    return on(device, dict(processor(**{"images": scene(0)} | prompts, return_tensors="pt")))


def on(device: Any, value: Any) -> Any:
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, value)


def check_same(found: Any, expected: Any) -> None:
    """Same numbers, but for a few pixels on thresholds."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            check_same(found[name], expected[name])
    elif isinstance(expected, (list, tuple)):
        for one, other in zip(found, expected, strict=True):
            check_same(one, other)
    elif isinstance(expected, Image.Image):
        check_same(torch.from_numpy(np.array(found)), torch.from_numpy(np.array(expected)))
    elif isinstance(expected, Tensor) and not expected.is_floating_point():
        found = found.cpu()
        assert found.dtype == expected.dtype and found.shape == expected.shape
        assert (found != expected).sum() <= 1e-3 * expected.numel()
    elif isinstance(expected, (Tensor, float)):
        torch.testing.assert_close(torch.as_tensor(found).cpu(), torch.as_tensor(expected), atol=1e-3, rtol=1e-3)
    else:
        assert found == expected


def check_everywhere(path: Callable[[Any], Any], models: list[Any]) -> None:
    expected, found = map(path, models)
    check_same(found, expected)


# Prompts. name -> (inputs of the processor, how answers are made of the outputs)

MIXED = {
    "images": [scene(0), scene(1), scene(2)],
    "categories": [NAMES, ["sky", "circle"], None],
    "expressions": [EXPRESSIONS, None, ["the circle"]],
    "regions": [None, REGIONS[:2], None],
    "conversations": [None, QUESTION, None],
}
ELSEWHERE = {"images": [scene(0), scene(1)], "regions": [REGIONS, REGIONS[:1]], "region_images": [scene(2), None]}
PROMPTS = {
    "categories": {"categories": NAMES},
    "expressions": {"expressions": EXPRESSIONS},
    "regions": {"regions": REGIONS},
    "regions elsewhere": ELSEWHERE,
    "every kind": MIXED,
    "conversation": {"conversations": QUESTION},
}
KINDS = {
    "post_process_panoptic_segmentation": [{}, {"threshold": 0.3, "label_ids_to_fuse": {2}, "overlap_mask_area_threshold": 0.5}],
    "post_process_semantic_segmentation": [{}, {"resize_logits": True}],
    "post_process_instance_segmentation": [
        {"threshold": 0.2},
        {"label_ids": [0, 1], "return_binary_maps": True, "top_k": 10, "threshold": 0.2},
        {"return_coco_annotation": True, "threshold": 0.4},
    ],
    "post_process_referring_segmentation": [
        {},
        {"threshold": None, "no_target_threshold": None},
        {"threshold": 0.5, "no_target_threshold": 0.99},
    ],
    "post_process_referring_instances": [{}, {"threshold": 0.3, "nms_threshold": 0.7}],
    "post_process_region_segmentation": [{}, {"mask_threshold": 0.4}],
}


FIELDS = ("masks_queries_logits", "class_queries_logits", "referring_queries_logits", "region_queries_logits", "logits", "num_conditions")


def answers_of(outputs: Any) -> dict[str, Any]:
    return {name: outputs[name] for name in FIELDS if outputs.get(name) is not None}


@torch.no_grad()
def answers(model: Any, processor: PsalmProcessor, prompts: dict[str, Any]) -> dict[str, Any]:
    """Outputs, and what all kinds of post-processing make of them with each of their options, resized and not."""
    inputs = prompt(processor, model.device, **prompts)
    outputs = model(**inputs, output_auxiliary_logits=True)
    found = answers_of(outputs)
    for kind, choices in KINDS.items():
        for number, options in enumerate(choices):
            for sizes in (inputs["original_sizes"], None):
                found[f"{kind} {number} {sizes is None}"] = getattr(processor, kind)(outputs, target_sizes=sizes, **options)
    return found


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_have_the_answers_of_the_cpu(trained, processor, name):
    check_everywhere(lambda model: answers(model, processor, PROMPTS[name]), trained)


def test_a_model_without_mask_tokens_has_the_answers_of_the_cpu(non_decoupled):
    prompts = {"images": [scene(0), scene(1)], "categories": [NAMES, ["sky"]]}
    check_everywhere(lambda model: answers(model, build_tiny(decouple_masks=False)[1], prompts), non_decoupled)


def test_encoded_images_and_regions_have_the_answers_of_the_cpu(trained, processor):
    @torch.no_grad()
    def path(model):
        inputs = prompt(processor, model.device, **ELSEWHERE)
        features = model.get_image_features(inputs.pop("pixel_values"))
        tokens = model.get_image_features(inputs.pop("region_pixel_values"), masks=False).image_tokens
        by_tokens = model(**inputs, image_features=features, region_image_tokens=tokens).region_queries_logits
        for name in ("region_weights", "region_image_index"):
            inputs.pop(name)
        vectors = torch.linspace(-1, 1, tokens.shape[-1]).expand(2, 3, -1).to(model.device)
        by_vectors = model(**inputs, image_features=features, region_features=vectors).region_queries_logits
        return [by_tokens, by_vectors]

    check_everywhere(path, trained)


@pytest.mark.parametrize("part", ["whole", "without heads"])
def test_what_python_decides_by_may_be_on_the_cpu(trained, processor, part):
    """The kinds and images of the rows. The outputs are on the device, all of them."""

    @torch.no_grad()
    def path(model):
        inputs = prompt(processor, model.device, **MIXED)
        inputs |= {name: inputs[name].cpu() for name in ("condition_type", "image_index")}
        if part == "without heads":
            return model.model(**inputs).condition_embeds
        outputs = model(**inputs)
        assert {leaf.device for leaf in tree_leaves(dict(outputs)) if isinstance(leaf, Tensor)} == {model.device}
        return answers_of(outputs)

    check_everywhere(path, trained)


def test_targets_may_be_on_the_cpu(trained, processor):
    inputs = batch(processor, "panoptic", trained[1].device)
    moved = inputs | {name: on("cpu", inputs[name]) for name in ("mask_labels", "class_labels")}
    check_same(gradients(trained[1], moved), on("cpu", gradients(trained[1], inputs)))


def test_a_divided_vocabulary_has_the_answers_of_the_cpu(trained, processor):
    @torch.no_grad()
    def path(model):
        samples = [Sample(scene(number), str(number), (128, 128), categories=dict(enumerate(NAMES))) for number in (0, 1)]
        outputs = forward(model, CollateRows(processor, [NAMES[:2], NAMES[2:]])(samples), 2)
        return [outputs.class_queries_logits, processor.post_process_panoptic_segmentation(outputs, target_sizes=[(128, 128)] * 2)]

    check_everywhere(path, trained)


# Words

ANSWERING = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "static cache": {"cache_implementation": "static"},
    "without a cache": {"use_cache": False},
    "penalty": {"repetition_penalty": 1.5},
    "samples": {"do_sample": True, "num_return_sequences": 2},
}


@pytest.mark.parametrize("name", ANSWERING)
def test_answers_in_words_are_those_of_the_cpu(trained, processor, device, name):
    def path(model):
        inputs = prompt(processor, model.device, images=[scene(0), scene(1)], conversations=[QUESTION, LONGER], padding_side="left")
        torch.manual_seed(0)
        tokens = model.generate(**inputs, max_new_tokens=6, **ANSWERING[name])
        return list(tokens.shape[:1]) if name == "samples" and device.type != "pretend" else tokens

    check_everywhere(path, trained)


def test_an_assistant_may_be_on_another_device(trained, processor):
    """It is told of tokens and images on the device of the model."""
    on_cpu, on_device = trained
    inputs = prompt(processor, on_device.device, conversations=QUESTION)
    expected = on_device.generate(**inputs, max_new_tokens=6)
    assert on_device.generate(**inputs, max_new_tokens=6, assistant_model=on_cpu).tolist() == expected.tolist()
    assert on_cpu.generate(**on("cpu", inputs), max_new_tokens=6, assistant_model=on_device).tolist() == expected.tolist()


# Training

TASKS = ("panoptic", "referring", "interactive", "conversation")


def batch(processor: PsalmProcessor, task: str, device: Any, **options: Any) -> dict[str, Any]:
    samples = iter(open_source(task, {}, image_size=128, seed=0))
    return on(device, PsalmCollator(processor, shuffle_categories=True, seed=0, **options)([next(samples), next(samples)]))


def gradients(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Loss and the sizes of all gradients; the model is as before."""
    torch.manual_seed(0)  # of the points at which masks are compared
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) or "DropPath" in type(module).__name__:
            module.eval()
    try:
        loss = model(**inputs).loss
        loss.backward()
        sizes = [parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]
    finally:
        model.zero_grad()
        model.eval()
    return {"loss": loss.detach(), "gradients": torch.stack(sizes)}


@pytest.mark.parametrize("task", TASKS)
def test_loss_and_gradients_are_those_of_the_cpu(trained, processor, device, task):
    expected, found = (gradients(model, batch(processor, task, model.device)) for model in trained)
    if device.type == "pretend":  # elsewhere other points are drawn
        check_same(found, expected)
    assert torch.isfinite(found["loss"]) and torch.isfinite(found["gradients"]).all()


def test_the_loss_without_mask_tokens_is_that_of_the_cpu(non_decoupled, device):
    expected, found = (gradients(model, batch(build_tiny(decouple_masks=False)[1], "panoptic", model.device)) for model in non_decoupled)
    if device.type == "pretend":
        check_same(found, expected)
    assert torch.isfinite(found["loss"])


# What is built on the model


def test_the_pipeline_has_the_answers_of_the_cpu(trained, processor):
    def path(model):
        pipeline = PromptableSegmentationPipeline(model, processor=processor, device=model.device)
        asked = [
            {"image": scene(0), "categories": NAMES, "stuff": ["grass"], "expressions": EXPRESSIONS},
            {"image": scene(1), "categories": NAMES, "task": "instance"},
            {"image": scene(2), "categories": NAMES, "task": "semantic", "points": [(40, 40)]},
            {"image": scene(3), "boxes": [(10, 10, 60, 60)], "region_images": scene(1)},
        ]
        return pipeline(asked, batch_size=2, threshold=None)

    check_everywhere(path, trained)


POLICIES = [LastFrame(), Released(), FirstLastConfident(), FirstLastConfident(0, 0, 0, least_share=0)]


@pytest.mark.parametrize("policy", POLICIES, ids=["last frame", "released", "ours", "ours, all remembered"])
def test_videos_have_the_answers_of_the_cpu(trained, processor, policy, tmp_path):
    def path(model):
        session = PsalmVideoSession(model, processor, policy)
        mask = np.zeros((128, 128), dtype=bool)
        mask[50:90, 20:60] = True
        session.add_objects(scene(0), {1: {"box": (91, 61, 121, 91)}, 2: mask})
        found = [session.track(scene(0)), session.track(scene(1), visible=[2])]
        session.correct(scene(1), {1: {"point": (30, 30)}})
        session.save(tmp_path / "session")
        session = PsalmVideoSession(model, processor, policy)
        session.load(tmp_path / "session")
        session.remove(2)
        found += [session.track(scene(number)) for number in (1, 2, 2)]
        return [[result.masks, result.scores] for result in found]

    check_everywhere(path, trained)


# Evaluation. What is recorded on the CPU and on the device is judged; a few pixels differ.

EVALUATED = {"panoptic": "panoptic", "semantic": "panoptic", "instance": "panoptic", "referring": "referring", "interactive": "interactive"}


def part_of(dataset: Any, measures: list[Any]) -> OpenPart:
    return OpenPart(BenchmarkPart("shapes"), None, "test", {}, dataset, {}, tuple(measures))


def judged(part: OpenPart, records: Records) -> dict[str, float]:
    evaluators = evaluate_predictions(part, records.predictions(), Processes())
    return {name: value for evaluator in evaluators for name, value in evaluator.numbers().items()}


@pytest.mark.parametrize("task", EVALUATED)
def test_benchmarks_have_the_numbers_of_the_cpu(trained, processor, task, tmp_path):
    drawn = load("shapes", "test", task=EVALUATED[task], num_images=2, image_size=128, cache_dir=tmp_path)
    dataset = SampleDataset(drawn.rows, drawn.categories, task if task in ("semantic", "instance") else drawn.task)

    def path(model):
        part = part_of(dataset, default_evaluators(dataset.rows[0]["condition"], dataset.task, dataset.categories))
        records = Records(tmp_path / "answers" / model.device.type)
        predict(MaskPredictor(model, processor, part, {}), records, Processes(), batch_size=3)
        return judged(part, records)

    expected, found = map(path, trained)
    assert found == pytest.approx(expected, abs=1, nan_ok=True)


def test_questions_have_the_numbers_of_the_cpu(trained, processor, tmp_path):
    dataset = load("shapes", "test", task="conversation", num_images=1, image_size=128, cache_dir=tmp_path)

    def path(model):
        part, records = part_of(dataset, [ShapesQuestionEvaluator()]), Records(tmp_path / "answers" / model.device.type)
        predict(TextPredictor(model, processor, part, {}), records, Processes(), batch_size=4)
        return judged(part, records)

    check_everywhere(path, trained)


@pytest.mark.parametrize("oracle", [False, True])
def test_clips_have_the_numbers_of_the_cpu(trained, processor, tmp_path, oracle):
    dataset = load("moving_shapes", "test", num_clips=1, num_frames=3, image_size=128, cache_dir=tmp_path)

    def path(model):
        part, records = part_of(dataset, [VideoEvaluator()]), Records(tmp_path / "answers" / model.device.type)
        predictor = VideoPredictor(model, processor, part, {"memory": "first_last_confident", "oracle": oracle})
        predict(predictor, records, Processes(), batch_size=1)
        return judged(part, records)

    expected, found = map(path, trained)
    assert found == pytest.approx(expected, abs=1, nan_ok=True)


def test_calibration_has_the_scores_of_the_cpu(trained, processor):
    def path(model):
        expressions = open_calibration("shapes", processor, limit=1)
        return [torch.from_numpy(answer.scores) for answer in score_predictions(model, expressions, batch_size=5)]

    check_everywhere(path, trained)


def test_shapes_have_the_numbers_of_the_cpu(trained, processor):
    expected, found = (evaluate(model, processor, "shapes", limit=1, batch_size=1).percent for model in trained)
    assert found == pytest.approx(expected, abs=1)


# How often the host waits for the device in one forward pass: reads of values and uploads of values by this library

WAITS = {
    "categories": (1, 0),
    "expressions": (1, 0),
    "regions": (1, 0),
    "regions elsewhere": (1, 0),
    "every kind": (1, 0),
    "conversation": (1, 0),
}
WAITS_OF_TRAINING = {"panoptic": (6, 4), "referring": (5, 4), "interactive": (5, 4), "conversation": (2, 0)}
WAITS_OF_ANSWERS = {"panoptic": (8, 1), "semantic": (4, 0), "instance": (14, 0), "referring": (5, 0), "region": (3, 0)}


def check_waits(found: list[Any], expected: tuple[int, int]) -> None:
    ours = [wait for wait in found if wait.is_ours]
    counted = tuple(sum(wait.kind == kind for wait in ours) for kind in ("read", "upload"))
    assert counted == expected, "\n".join(f"{wait.kind}: {wait.cause}" for wait in found)


@pytest.fixture
def pretending(device):
    if device.type != "pretend":
        pytest.skip("only the device that is pretended counts")


@pytest.mark.usefixtures("pretending")
@pytest.mark.parametrize("name", PROMPTS)
@torch.no_grad()
def test_a_forward_pass_waits_for_the_device_once(trained, processor, name):
    inputs = prompt(processor, trained[1].device, **PROMPTS[name])
    with waits() as found:
        trained[1](**inputs)
    check_waits(found, WAITS[name])


@pytest.mark.usefixtures("pretending")
@pytest.mark.parametrize("kind", WAITS_OF_ANSWERS)
@torch.no_grad()
def test_post_processing_waits_for_the_device_seldom(trained, processor, kind):
    inputs = prompt(processor, trained[1].device, **MIXED)
    outputs = trained[1](**inputs)
    with waits() as found:
        getattr(processor, f"post_process_{kind}_segmentation")(outputs, target_sizes=inputs["original_sizes"])
    check_waits(found, WAITS_OF_ANSWERS[kind])


@pytest.mark.usefixtures("pretending")
def test_an_answer_in_words_waits_for_the_device_before_its_first_token_only(trained, processor):
    inputs = prompt(processor, trained[1].device, conversations=QUESTION)
    of_its_own = {name: values for name, values in inputs.items() if name != "image_index"}  # one image per row
    for asked, options in ((inputs, {}), (inputs, {"num_beams": 3}), (of_its_own, {"num_beams": 3})):
        for number in (1, 5):
            with waits() as found:
                trained[1].generate(**asked, min_new_tokens=number, max_new_tokens=number, **options)
            check_waits(found, (2, 0))


@pytest.mark.usefixtures("pretending")
@pytest.mark.parametrize("task", TASKS)
def test_a_training_step_waits_for_the_device_seldom(trained, processor, task):
    inputs = batch(processor, task, trained[1].device)
    with waits() as found:
        gradients(trained[1], inputs)
    check_waits(found, WAITS_OF_TRAINING[task])


@pytest.mark.usefixtures("pretending")
def test_a_training_step_without_mask_tokens_waits_for_the_device_seldom(non_decoupled):
    inputs = batch(build_tiny(decouple_masks=False)[1], "panoptic", non_decoupled[1].device)
    with waits() as found:
        gradients(non_decoupled[1], inputs)
    check_waits(found, (8, 0))


def test_processes_add_up_their_masks_on_the_device(device, monkeypatch):
    def all_reduce(number: Tensor) -> None:
        assert number.device.type == device.type  # as the backend of processes with accelerators demands
        number += 3

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    assert count_masks([torch.zeros(2, 4, 4), torch.zeros(3, 4, 4)], device) == 4


# The choice of a device, and its random numbers


def test_a_command_computes_where_it_is_told_or_on_the_accelerator(device):
    assert pick_device() == pick_device(device.type) == torch.device(device.type) and pick_device(str(device)) == device
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["{}:99", "hpu", "gpu", ""])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(device, name):
    name = name.format(device.type)
    with pytest.raises(
        ValueError, match=f"--device {name}: torch finds no such device on this machine, only cpu, {device.type}, {device.type}:0"
    ):
        pick_device(name)


def test_without_an_accelerator_a_command_computes_on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert pick_device() == torch.device("cpu")
    with pytest.raises(ValueError, match="--device cuda: torch finds no such device on this machine, only cpu$"):
        pick_device("cuda")


def test_what_is_seeded_and_drawn_inside_changes_no_random_numbers_of_any_device(device):
    def draw() -> list[list[float]]:
        return [torch.rand(3, device=place).tolist() for place in ("cpu", device)]

    torch.manual_seed(1)
    expected = draw()
    for inside in (draw, lambda: torch.manual_seed(2), lambda: build_tiny(seed=2)):
        torch.manual_seed(1)
        with kept_torch_state():
            inside()
        assert draw() == expected
    torch.manual_seed(1)
    build_tiny(seed=2)
    assert draw() == expected


@pytest.mark.parametrize(
    ("capabilities", "expected"), [({}, False), ({"avx512_bf16": False}, False), ({"amx_bf16": True}, True), ({"avx512_bf16": True}, True)]
)
def test_a_cpu_multiplies_in_bfloat16_if_it_has_an_instruction_for_it(capabilities, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert cpu_multiplies_bfloat16() is expected
