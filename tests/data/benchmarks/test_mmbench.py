"""MMBench on drawn tables of both forms, and on the real ones, whose cells are read here once more."""

import base64
import csv
import io
import sys

import numpy as np
import pytest
from datasets.distributed import split_dataset_by_node
from PIL import Image

from psalm_hf.data import load
from tests.conftest import SAMPLES

SUFFIX = {"en": "\nAnswer with the option's letter from the given choices directly.", "cn": "\n请直接回答选项字母。"}
COLUMNS = ("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "source", "l2-category", "comment", "split")


def jpeg(shade):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (shade, 0, 0)).save(buffer, format="JPEG")
    return buffer.getvalue()


def encoded(content):
    return base64.b64encode(content).decode("ascii")


def line(index, **cells):
    row = {"index": index, "question": f"Question {index}?", "A": "a cup", "B": "a can", "answer": "B", "image": encoded(jpeg(index % 200))}
    row |= {"category": "ocr", "l2-category": "coarse_perception", "split": "dev", **cells}
    return {name: row.get(name, "") for name in COLUMNS}


# Compact: line 3 shares the picture of line 200, which comes later. 1000007 is line 7 rotated, as in the legacy form.
LINES = [
    line(7, hint="A hint.", C="a\nbowl", D="a plate", answer="D"),
    line(3, image="200", hint="nan", C="nan", D="NaN"),
    line(200, C='a "big" bowl', answer="C"),
    line(1000007, A="a can", B="a\nbowl", C="a plate", D="a cup", answer="C"),
]


def write(folder, name="mmbench_dev_en.tsv", lines=LINES, columns=COLUMNS):
    folder.mkdir(exist_ok=True)
    with open(folder / name, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "mmbench")
    return tmp_path / "mmbench"


def texts(sample):
    return [(message["role"], message["content"]) for message in sample.conversation]


def test_questions_have_a_hint_options_and_the_bytes_of_their_picture(root, tmp_path):
    dataset = load("mmbench", "dev", root, cache_dir=tmp_path)
    assert [sample.record_id for sample in dataset] == ["7", "3", "200", "1000007"]
    question = f"A hint.\nQuestion 7?\nA. a cup\nB. a can\nC. a\nbowl\nD. a plate{SUFFIX['en']}"
    assert texts(dataset[0]) == [("user", question), ("assistant", "D")]
    assert dataset[2].choices == ("a cup", "a can", 'a "big" bowl') and dataset[2].answers == ("C",)
    assert dataset.rows[0]["image"]["bytes"] == jpeg(7) and dataset[0].image_size == (4, 6)
    assert dataset.rows[0]["tags"] == ["category:ocr", "l2-category:coarse_perception"]


def test_empty_cells_are_no_options_and_no_hint(root, tmp_path):
    sample = load("mmbench", "dev", root, cache_dir=tmp_path)[1]
    assert texts(sample) == [("user", f"Question 3?\nA. a cup\nB. a can{SUFFIX['en']}"), ("assistant", "B")]
    assert sample.choices == ("a cup", "a can")


@pytest.mark.parametrize("split", ["nan", "NaN", "", " "])
def test_a_split_that_says_nothing_is_no_other_split(split, root, tmp_path):
    write(root, lines=[line(5, split=split)])
    assert [sample.record_id for sample in load("mmbench", "dev", root, cache_dir=tmp_path)] == ["5"]


def test_a_picture_may_be_that_of_another_line(root, tmp_path):
    dataset = load("mmbench", "dev", root, cache_dir=tmp_path)
    assert [row["image"]["bytes"] for row in dataset.rows][1:3] == [jpeg(0)] * 2
    assert [sample.image_id for sample in dataset] == ["7", "200", "200", "1000007"]


def test_rotations_are_made_of_a_compact_table(root, tmp_path):
    write(root, lines=LINES[:3])
    dataset = load("mmbench", "dev", root, cache_dir=tmp_path, rotations="all")
    asked = [(sample.record_id, sample.answers[0], sample.choices) for sample in dataset]
    assert asked[:4] == [
        ("7", "D", ("a cup", "a can", "a\nbowl", "a plate")),
        ("1000007", "C", ("a can", "a\nbowl", "a plate", "a cup")),
        ("2000007", "B", ("a\nbowl", "a plate", "a cup", "a can")),
        ("3000007", "A", ("a plate", "a cup", "a can", "a\nbowl")),
    ]
    assert asked[4:6] == [("3", "B", ("a cup", "a can")), ("1000003", "A", ("a can", "a cup"))]
    assert [id for id, _, _ in asked[6:]] == ["200", "1000200", "2000200"]
    question = f"A hint.\nQuestion 7?\nA. a can\nB. a\nbowl\nC. a plate\nD. a cup{SUFFIX['en']}"
    assert texts(dataset[1]) == [("user", question), ("assistant", "C")]
    assert {row["image"]["bytes"] for row in list(dataset.rows)[:4]} == {jpeg(7)}
    assert load("mmbench", "dev", root, cache_dir=tmp_path).rows["record_id"][:] == ["7", "3", "200"]


def test_rotations_of_a_legacy_table_are_its_own(root, tmp_path):
    stored = load("mmbench", "dev", root, cache_dir=tmp_path)
    assert list(load("mmbench", "dev", root, cache_dir=tmp_path, rotations="all")) == list(stored)
    once = load("mmbench", "dev", root, cache_dir=tmp_path, rotations="none")
    assert list(once) == [sample for sample in stored if sample.record_id != "1000007"]
    with pytest.raises(ValueError, match="mmbench: unknown rotations 'some', expected one of stored, none, all"):
        load("mmbench", "dev", root, cache_dir=tmp_path, rotations="some")


def test_rotations_of_unanswered_questions_await_an_answer(root, tmp_path):
    write(root, "mmbench_test_en.tsv", [line(1, split="test", answer="")])
    dataset = load("mmbench", "test", root, cache_dir=tmp_path, rotations="all")
    assert [(sample.choices, sample.answers) for sample in dataset] == [(("a cup", "a can"), ()), (("a can", "a cup"), ())]


def test_without_answer_the_conversation_awaits_one(root, tmp_path):
    write(
        root,
        "mmbench_test_en.tsv",
        [line(1, split="test", answer="nan"), line(2, split="")],
        [name for name in COLUMNS if name != "answer"],
    )
    dataset = load("mmbench", "test", root, cache_dir=tmp_path)
    assert [texts(sample) for sample in dataset] == [[("user", f"Question {index}?\nA. a cup\nB. a can{SUFFIX['en']}")] for index in (1, 2)]
    assert dataset[0].answers == ()


def test_the_table_is_found_by_split_and_language(root, tmp_path):
    write(root, "MMBench_DEV_CN.tsv", LINES[2:3])
    assert texts(load("mmbench", "dev", root, cache_dir=tmp_path, language="cn")[0])[0][1].endswith(SUFFIX["cn"])
    (root / "mmbench_dev_en.tsv").rename(root / "mmbench_dev_20230712.tsv")
    assert len(load("mmbench", "dev", root, cache_dir=tmp_path)) == 4
    write(root, "MMBench_DEV_EN.tsv", LINES[2:3])
    with pytest.raises(
        ValueError, match="mmbench dev: several tables .* fit: MMBench_DEV_EN.tsv, mmbench_dev_20230712.tsv; name one as `file`"
    ):
        load("mmbench", "dev", root, cache_dir=tmp_path)
    assert len(load("mmbench", "dev", root, cache_dir=tmp_path, file="MMBench_DEV_EN.tsv", instruction="")) == 1
    with pytest.raises(FileNotFoundError, match="mmbench test: there is no mmbench_test_en.tsv in"):
        load("mmbench", "test", root, cache_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="mmbench dev: the folder .*nowhere does not exist"):
        load("mmbench", "dev", root / "nowhere", cache_dir=tmp_path)
    with pytest.raises(ValueError, match="mmbench: unknown language 'de', expected one of en, cn"):
        load("mmbench", "dev", root, cache_dir=tmp_path, language="de")


BROKEN = {
    "no such picture": (line(5, image="6"), "its image is that of index 6, which is not in the table"),
    "picture of a line without one": (
        line(5, image="3"),
        "its image is that of index 3, which is not in the table or has none of its own",
    ),
    "no base64": (line(5, image="/9j/é"), "its image is not base64"),
    "no picture": (line(5, image=encoded(b"<html>")), "image of index 5 cannot be read"),
    "gap": (line(5, D="a plate"), "option C is empty, but a later one is not"),
    "one option": (line(5, B=""), "at least 2 choices"),
    "answer": (line(5, answer="C"), "expected as answer a letter of one of 2 options, got 'C'"),
    "split": (line(5, split="test"), "it belongs to the split test"),
    "question": (line(5, question=" "), "the question is blank"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_line_is_named_or_left_out(case, root, tmp_path):
    broken, message = BROKEN[case]
    write(root, lines=[LINES[0], LINES[2], LINES[1], broken])
    with pytest.raises(ValueError, match=f"mmbench dev: mmbench_dev_en.tsv, index 5: .*{message}.*docs page MMBench"):
        load("mmbench", "dev", root, cache_dir=tmp_path)
    assert [sample.record_id for sample in load("mmbench", "dev", root, cache_dir=tmp_path, on_error="skip")] == ["7", "200", "3"]


def test_a_line_that_is_cut_off_is_named(root, tmp_path):
    with open(root / "mmbench_dev_en.tsv", "a", encoding="utf-8") as file:
        file.write("9\tQuestion 9?\t\ta cup")
    with pytest.raises(ValueError, match="mmbench_dev_en.tsv, index 9: it has another number of cells than the head of the table"):
        load("mmbench", "dev", root, cache_dir=tmp_path)


def test_what_is_no_table_of_mmbench_is_refused(root, tmp_path):
    (root / "mmbench_dev_en.tsv").write_text("<html>", encoding="utf-8")
    with pytest.raises(ValueError, match="mmbench dev: .*mmbench_dev_en.tsv has no column index, question, image, A, B"):
        load("mmbench", "dev", root, cache_dir=tmp_path)
    write(root, lines=[LINES[0], LINES[0]])
    with pytest.raises(ValueError, match="mmbench dev: .*mmbench_dev_en.tsv has 1 indices twice or more"):
        load("mmbench", "dev", root, cache_dir=tmp_path)


# The real files.

REAL = SAMPLES / "mmbench"


def cells(language):
    csv.field_size_limit(sys.maxsize)
    with open(REAL / f"mmbench_dev_{language}_sample.tsv", encoding="utf-8", newline="") as file:
        head, *lines = csv.reader(file, delimiter="\t")
    return [dict(zip(head, line, strict=True)) for line in lines]


@pytest.mark.samples
@pytest.mark.parametrize("language", ["en", "cn"])
def test_real_questions_have_the_texts_and_pixels_of_the_table(language, tmp_path):
    lines = cells(language)
    dataset = load("mmbench", "dev", REAL, cache_dir=tmp_path, language=language, check_images=True)
    assert [sample.record_id for sample in dataset] == [line["index"] for line in lines]
    for sample, line in zip(dataset, lines, strict=True):
        options = [letter for letter in "ABCD" if line[letter].strip() and line[letter] != "nan"]
        written = [line["hint"]] if line["hint"] else []
        written += [line["question"], *(f"{letter}. {line[letter]}" for letter in options)]
        assert texts(sample) == [("user", "\n".join(written) + SUFFIX[language]), ("assistant", line["answer"])]
        assert list(sample.choices) == [line[letter] for letter in options] and sample.answers == (line["answer"],)
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(line["image"]))))
        assert np.array_equal(np.asarray(sample.image), pixels) and sample.image_size == pixels.shape[:2]


@pytest.mark.samples
def test_real_questions_are_the_same_twice_and_divide_among_two_ranks(tmp_path):
    dataset = load("mmbench", "dev", REAL, cache_dir=tmp_path, streaming=True)
    first = list(dataset)
    assert list(dataset) == first == list(load("mmbench", "dev", REAL, cache_dir=tmp_path, num_proc=2))
    parts = [[row["record_id"] for row in split_dataset_by_node(dataset.rows, rank=rank, world_size=2)] for rank in range(2)]
    assert all(parts) and sorted(parts[0] + parts[1]) == sorted(sample.record_id for sample in first)
