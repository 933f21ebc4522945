"""A dialogue from lines to answers and pictures, with random weights except where psalm-tiny is named."""

import io
import json

import pytest
import torch
from PIL import Image

from psalm_hf import PsalmForSegmentation, PsalmProcessor, checkpoints
from psalm_hf.cli import chat
from psalm_hf.data.shapes.scene import example_image
from psalm_hf.data.shapes.stream import ShapesStream
from psalm_hf.dialogue import COMMANDS, Dialogue, converse
from psalm_hf.tiny import build_tiny

QUESTIONS = ["What is on the table?", "And what colour is it?"]


@pytest.fixture(scope="module")
def tiny():
    return build_tiny(seed=3)


@pytest.fixture(scope="module")
def trained(tiny_checkpoint):
    return PsalmForSegmentation.from_pretrained(tiny_checkpoint).eval(), PsalmProcessor.from_pretrained(tiny_checkpoint)


@pytest.fixture
def said():
    """Pieces of text that the user sees."""
    return []


@pytest.fixture
def dialogue(tiny, tmp_path, picture, said):
    found = Dialogue(*tiny, said.append, output=str(tmp_path / "out" / "found"), max_new_tokens=6, threshold=0.0)
    found.look_at(str(picture))
    said.clear()
    return found


@pytest.fixture
def vision_calls(tiny):
    calls = []
    hook = tiny[0].model.vision_tower.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    yield calls
    hook.remove()


def text(said):
    return "".join(said)


def test_answers_are_streamed_and_kept(dialogue, said):
    converse(dialogue, QUESTIONS)
    roles, contents = zip(*((message["role"], message["content"]) for message in dialogue.messages), strict=True)
    assert roles == ("user", "assistant") * 2
    assert list(contents[::2]) == QUESTIONS
    assert text(said).split("\n")[:-1] == [answer.rstrip() for answer in contents[1::2]]


def test_a_later_question_knows_what_was_said(dialogue, tiny, monkeypatch):
    model, processor = tiny
    converse(dialogue, QUESTIONS[:1])
    before, asked = list(dialogue.messages), []
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda **inputs: asked.append(inputs) or generate(**inputs))
    converse(dialogue, QUESTIONS[1:])
    messages = [*before, {"role": "user", "content": QUESTIONS[1]}]
    expected = processor(images=dialogue.image, conversations=messages)
    assert torch.equal(asked[0]["input_ids"], expected["input_ids"])
    answer = model.generate(**expected, max_new_tokens=6, do_sample=False)[0, expected["input_ids"].shape[1] :]
    assert dialogue.messages[-1]["content"] == processor.tokenizer.decode(answer, skip_special_tokens=True).strip()


def test_a_picture_is_encoded_once(dialogue, vision_calls, picture, tmp_path):
    converse(dialogue, [*QUESTIONS, "/segment the red box", "/categories box, wall", "/new", QUESTIONS[0]])
    assert vision_calls == []
    other = tmp_path / "other.png"
    Image.open(picture).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(other)
    converse(dialogue, [f"/image {other}", QUESTIONS[0], "/segment the red box"])
    assert vision_calls == [1]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"found_1.png", "found_2.png"}


@pytest.fixture
def read_lengths(tiny):
    """Number of tokens in every pass of the language model over more than one."""
    lengths = []
    hook = tiny[0].model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    yield lengths
    hook.remove()


def test_a_later_question_is_read_alone(dialogue, tiny, read_lengths):
    processor = tiny[1]
    converse(dialogue, QUESTIONS[:1])
    asked, answered = (message["content"] for message in dialogue.messages)
    read_lengths.clear()
    converse(dialogue, QUESTIONS[1:])
    added = processor.encode_prompt(conversation=dialogue.messages[:3])["input_ids"].shape[1]
    added -= processor.encode_prompt(conversation=[{"role": "user", "content": asked}])["input_ids"].shape[1]
    assert max(read_lengths) <= added  # less where the answer's tokens are those of its text
    read_lengths.clear()
    converse(dialogue, ["/new", QUESTIONS[1]])  # what stands before the question is still known
    assert max(read_lengths) <= len(QUESTIONS[1]) + len(" [/INST]")


def test_after_a_new_dialogue_the_answer_is_that_of_a_first_question(dialogue, tiny):
    model, processor = tiny
    converse(dialogue, [*QUESTIONS, "/new", QUESTIONS[1]])
    inputs = processor(images=dialogue.image, conversations=[{"role": "user", "content": QUESTIONS[1]}])
    answer = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert dialogue.messages[-1]["content"] == processor.tokenizer.decode(answer, skip_special_tokens=True).strip()


def test_another_image_is_read_anew(dialogue, read_lengths, picture):
    converse(dialogue, [QUESTIONS[0], f"/image {picture}"])
    first = max(read_lengths)
    read_lengths.clear()
    converse(dialogue, QUESTIONS[:1])
    assert max(read_lengths) == first


def test_an_answer_that_was_stopped_leaves_nothing_half_read(dialogue, tiny, read_lengths):
    model, processor = tiny
    converse(dialogue, QUESTIONS[:1])
    messages = [*dialogue.messages, {"role": "user", "content": QUESTIONS[1]}]
    write = dialogue.write

    def stop(text):
        raise KeyboardInterrupt

    dialogue.write = stop
    with pytest.raises(KeyboardInterrupt):
        dialogue.ask("And now?")
    dialogue.write = write
    read_lengths.clear()
    converse(dialogue, QUESTIONS[1:])
    inputs = processor(images=dialogue.image, conversations=messages)
    assert max(read_lengths) == inputs["input_ids"].shape[1]
    answer = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert dialogue.messages[-1]["content"] == processor.tokenizer.decode(answer, skip_special_tokens=True).strip()


def test_a_second_segmentation_is_read_from_the_end_of_the_image_on(dialogue, tiny, read_lengths):
    processor = tiny[1]
    converse(dialogue, ["/segment the wall", QUESTIONS[0]])
    read_lengths.clear()
    converse(dialogue, ["/segment the red box", "/categories box, wall"])
    assert len(read_lengths) == 2
    longest = processor.encode_prompt(categories=["box", "wall"])["input_ids"].shape[1]
    assert max(read_lengths) < longest - processor.image_grid[0] * processor.image_grid[1]


def test_masks_are_those_of_a_call_with_the_picture(trained, said, monkeypatch):
    model, processor = trained
    dialogue, drawn = Dialogue(model, processor, said.append, threshold=0.5), []
    dialogue.show(example_image(), "drawn shapes")
    monkeypatch.setattr(dialogue, "_draw", lambda *found, **colors: drawn.append(found))
    converse(dialogue, ["/segment the purple triangle", "/categories star, triangle, grass"])
    with torch.no_grad():
        inputs = processor(
            images=dialogue.image, expressions=["the purple triangle"], categories=["star", "triangle", "grass"], return_tensors="pt"
        )
        outputs = model(**inputs)
    expected = processor.post_process_referring_segmentation(outputs, target_sizes=inputs["original_sizes"])[1]
    panoptic = processor.post_process_panoptic_segmentation(outputs, threshold=0.5, target_sizes=inputs["original_sizes"])[0]
    (masks, labels, scores), (segments, names, _) = drawn
    assert (masks[0] == expected["segmentation"].numpy()).all() and labels == ["the purple triangle"]
    assert scores == [pytest.approx(expected["score"], abs=1e-4)]
    assert names == [["star", "triangle", "grass"][segment["label_id"]] for segment in panoptic["segments_info"]]
    assert {"triangle", "grass"} <= set(names)
    for mask, segment in zip(segments, panoptic["segments_info"], strict=True):
        assert (mask == (panoptic["segmentation"] == segment["id"]).numpy()).all()


def test_pictures_are_numbered_and_never_overwritten(dialogue, said, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "found_1.png").write_text("mine")
    converse(dialogue, ["/segment the red box", "/segment the wall"])
    assert (tmp_path / "out" / "found_1.png").read_text() == "mine"
    for number in (2, 3):
        with Image.open(tmp_path / "out" / f"found_{number}.png") as overlay:
            assert overlay.mode == "RGB" and overlay.width >= 360
    assert "found_2.png: the red box (" in text(said) and "found_3.png: the wall (" in text(said)


def test_what_is_not_there_gets_no_picture(dialogue, said, tmp_path, monkeypatch):
    monkeypatch.setattr(dialogue.processor, "no_target_threshold", 1.0)
    dialogue.threshold = 1.0
    converse(dialogue, ["/segment the red box", "/categories box, wall"])
    assert "nothing in the image is 'the red box' (score" in said[0]
    assert said[1] == "nothing in the image is box or wall with a score of 1.0\n"
    assert not (tmp_path / "out").exists()


def test_another_picture_and_new_begin_again(dialogue, picture):
    converse(dialogue, [QUESTIONS[0], "/new"])
    assert dialogue.messages == []
    converse(dialogue, [QUESTIONS[0], f"/image {picture}"])
    assert dialogue.messages == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/image absent.png", "absent.png: no such file"),
        ("/draw a cup", "no command /draw; there are /segment, /categories, /image, /new, /help"),
        ("/segment", "/segment takes TEXT, got ''"),
        ("/new picture", "/new takes nothing behind it, got 'picture'"),
        ("/categories cup, cup", "'cup' is also category 0"),
        ("/categories cup,,wall", "category 1: is blank"),
        ("/segment the [SEG]", "contains '[SEG]', which the model reads as a special token"),
        ("What is <image> or <image>?", "<image> is mentioned 2 times, but there is one image"),
        ("why " * 600, "the dialogue has 2"),
    ],
)
def test_what_cannot_be_done_is_said_and_the_dialogue_goes_on(dialogue, said, line, message):
    converse(dialogue, QUESTIONS[:1])
    before, image = list(dialogue.messages), dialogue.image
    said.clear()
    converse(dialogue, [line])
    assert message in text(said) and text(said).count("\n") == 1
    assert dialogue.messages == before and dialogue.image is image
    converse(dialogue, QUESTIONS[1:])
    assert len(dialogue.messages) == 4


def test_a_full_dialogue_says_how_to_go_on(dialogue, said, monkeypatch):
    monkeypatch.setattr(dialogue.processor, "max_length", 300)
    converse(dialogue, QUESTIONS)
    assert "at most 300 fit; forget what was said by /new" in text(said)


def test_an_answer_ends_where_the_context_ends(dialogue, monkeypatch):
    length = dialogue.processor(images=dialogue.image, conversations=[{"role": "user", "content": QUESTIONS[0]}])["input_ids"].shape[1]
    monkeypatch.setattr(dialogue.processor, "max_length", length + 2)
    generate, given = dialogue.model.generate, []
    monkeypatch.setattr(dialogue.model, "generate", lambda **inputs: given.append(inputs["max_new_tokens"]) or generate(**inputs))
    converse(dialogue, QUESTIONS[:1])
    assert given == [2]


def test_an_empty_answer_is_no_part_of_the_dialogue(dialogue, said, monkeypatch):
    end = torch.tensor([[dialogue.processor.tokenizer.eos_token_id]])
    monkeypatch.setattr(dialogue.model, "generate", lambda **inputs: torch.cat((inputs["input_ids"], end), dim=1))
    converse(dialogue, QUESTIONS[:1])
    assert text(said) == "(no answer)\n" and dialogue.messages == []


def test_an_answer_can_be_stopped(dialogue, said, monkeypatch):
    def interrupted(**inputs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(dialogue.model, "generate", interrupted)
        converse(dialogue, QUESTIONS[:1])
    assert text(said) == " (stopped)\n" and dialogue.messages == []
    converse(dialogue, ["", "  ", QUESTIONS[0]])
    assert len(dialogue.messages) == 2


def test_samples_need_a_temperature(tiny, picture, said):
    answers = set()
    for seed in range(3):
        dialogue = Dialogue(*tiny, said.append, max_new_tokens=6, temperature=5.0)
        dialogue.look_at(str(picture))
        torch.manual_seed(seed)
        dialogue.ask(QUESTIONS[0])
        answers.add(json.dumps(dialogue.messages))
    assert len(answers) == 3


def test_the_command_from_its_lines_to_its_end(tmp_path, tiny, picture, monkeypatch, capsys):
    for part in tiny:
        part.save_pretrained(tmp_path / "model")
    monkeypatch.setattr("sys.stdin", io.StringIO("/help\n/segment the red box\nWhat is it?\n"))
    arguments = [str(picture), "--checkpoint", str(tmp_path / "model"), "--output", str(tmp_path / "found"), "--max-new-tokens", "3"]
    assert chat.main(arguments) == 0
    output = capsys.readouterr().out
    assert all(command in output for command in COMMANDS)
    assert (tmp_path / "found_1.png").exists()


def test_the_description_names_every_command():
    assert all(f"    {' '.join(filter(None, (name, COMMANDS[name][0])))} " in chat.__doc__ for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "message"), [(["absent.png"], "absent.png"), (["{picture}", "--checkpoint", "{folder}/absent"], "absent")]
)
def test_a_mistake_is_one_line_and_status_2(tmp_path, tiny, picture, capsys, monkeypatch, arguments, message):
    for part in tiny:
        part.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(checkpoints, "tiny_checkpoint", lambda: tmp_path / "model")
    assert chat.main([argument.format(picture=picture, folder=tmp_path) for argument in arguments]) == 2
    complaint = capsys.readouterr().err.strip().splitlines()[-1]
    assert complaint.startswith("error: ") and message in complaint


@pytest.mark.parametrize("arguments", [["--max-new-tokens", "0"], ["--temperature", "-1"], ["--threshold", "2"]])
def test_numbers_out_of_range_are_refused(arguments):
    assert chat.main(arguments) == 2


def test_psalm_tiny_sees_whether_something_is_there(trained, tmp_path, said):
    right = []
    for scene in range(24):
        asked = [sample for sample in ShapesStream(task="conversation", split="test").samples(scene) if sample.tags == ("existence",)]
        if not asked:
            continue
        asked[0].image.save(tmp_path / "scene.png")
        dialogue = Dialogue(*trained, said.append)
        dialogue.look_at(str(tmp_path / "scene.png"))
        for sample in asked:
            question, answer = (message["content"] for message in sample.conversation)
            converse(dialogue, ["/new", question])
            right.append(dialogue.messages[-1]["content"] == answer)
    assert len(right) > 20 and sum(right) / len(right) > 0.7  # 84 % of the whole split; half of the answers are yes
