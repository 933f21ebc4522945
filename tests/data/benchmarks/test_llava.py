"""LLaVA's conversations and captions: on drawn folders and shards, and on the real samples, whose texts are read here once more."""

import io
import json
import tarfile

import numpy as np
import pytest
from datasets.distributed import split_dataset_by_node
from PIL import Image

from psalm_hf.data import load
from tests.conftest import SAMPLES

SIZE = (4, 6)


def jpeg(shade=0, format="JPEG"):
    buffer = io.BytesIO()
    Image.new("RGB", SIZE[::-1], (shade, 0, 0)).save(buffer, format=format)
    return buffer.getvalue()


def turns(*texts, first="human"):
    roles = ("human", "gpt") if first == "human" else ("gpt", "human")
    return [{"from": roles[number % 2], "value": text} for number, text in enumerate(texts)]


def record(id, image, *texts, **fields):
    return {"id": id, "conversations": turns(*texts), **({"image": image} if image else {}), **fields}


def texts(sample):
    return [(message["role"], message["content"]) for message in sample.conversation]


def write(folder, name, records):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(records), encoding="utf-8")


MIX = "llava_v1_5_mix665k.json"
RECORDS = [
    record("a", "coco/train2017/1.jpg", "<image>\nWhat is it?", "A cup.", "Where?", "On a table."),
    record(7, "vg/VG_100K/7.jpg", "What is it?\n<image>\nAnswer shortly.", "Cup"),
    record("c", "ocr_vqa/images/8.jpg", "Who wrote this?\n<image>", "Nobody"),
    record("d", None, "Tell me a joke.", " No. ", model=""),
    {"id": "e", "image": "coco/train2017/1.jpg", "conversations": turns("Hello!", "<image>\nWhat is it?", "A cup.", first="gpt")},
]


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "root"
    for number, name in enumerate(("coco/train2017/1.jpg", "vg/VG_100K/7.jpg", "ocr_vqa/images/8.gif")):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(jpeg(number))
    write(root, MIX, RECORDS)
    return root


def test_conversations_are_messages_without_the_mark_of_the_picture(root, tmp_path):
    dataset = load("llava_mix665k", "train", root, cache_dir=tmp_path)
    assert [sample.image_id for sample in dataset] == ["a", "7", "c", "d", "e"]
    assert texts(dataset[0]) == [("user", "What is it?"), ("assistant", "A cup."), ("user", "Where?"), ("assistant", "On a table.")]
    assert texts(dataset[1]) == [("user", "What is it?\n\nAnswer shortly."), ("assistant", "Cup")]
    assert texts(dataset[2]) == [("user", "Who wrote this?"), ("assistant", "Nobody")]
    assert texts(dataset[3]) == [("user", "Tell me a joke."), ("assistant", " No. ")]
    assert dataset[0].image == str(root / "coco/train2017/1.jpg") and dataset[0].image_size == SIZE
    assert dataset[3].image is None and dataset[3].image_size is None
    assert dataset.categories == ()


def test_a_leading_turn_of_the_assistant_is_dropped(root, tmp_path):
    assert texts(load("llava_mix665k", "train", root, cache_dir=tmp_path)[4]) == [("user", "What is it?"), ("assistant", "A cup.")]


def test_pictures_of_ocr_vqa_are_found_with_the_ending_of_the_server(root, tmp_path):
    assert load("llava_mix665k", "train", root, cache_dir=tmp_path)[2].image == str(root / "ocr_vqa/images/8.gif")


def test_conversations_without_picture_can_be_dropped(root, tmp_path):
    dataset = load("llava_mix665k", "train", root, cache_dir=tmp_path, text_only="drop")
    assert [sample.image_id for sample in dataset] == ["a", "7", "c", "e"]
    with pytest.raises(ValueError, match="llava_mix665k: unknown text_only 'only', expected one of keep, drop"):
        load("llava_mix665k", "train", root, cache_dir=tmp_path, text_only="only")


def test_the_file_may_lie_in_a_folder_of_its_own(root, tmp_path):
    write(root, f"llava/{MIX}", RECORDS[:1])
    assert len(load("llava_mix665k", "train", root, cache_dir=tmp_path)) == 5
    (root / MIX).rename(root / "other.json")
    assert len(load("llava_mix665k", "train", root, cache_dir=tmp_path)) == 1
    assert len(load("llava_mix665k", "train", root, cache_dir=tmp_path, file="other.json")) == 5


IMAGE = "coco/train2017/1.jpg"
BROKEN = {
    "no such picture": (record("x", "coco/train2017/2.jpg", "Q", "A"), "image coco/train2017/2.jpg does not exist"),
    "two turns of the same": ({"id": "x", "conversations": turns("Q") + turns("Q", "A")}, "turn 1 is from human, expected gpt"),
    "no answer": (record("x", IMAGE, "<image>\nQ", "A", "Q"), "does not end with an answer"),
    "nothing but a greeting": ({"id": "x", "conversations": turns("Hello!", first="gpt")}, "does not end with an answer"),
    "another speaker": ({"id": "x", "conversations": [{"from": "system", "value": "Q"}]}, "not a list of turns from human and gpt"),
    "no turns": ({"id": "x", "conversations": None}, "not a list of turns"),
    "blank": (record("x", IMAGE, "<image>\n", "A"), "turn 0 is blank"),
    "two pictures": (record("x", IMAGE, "<image>\n<image>\nQ", "A"), "<image> is mentioned 2 times, but there is one image"),
    "no picture": (record("x", None, "<image>\nQ", "A"), "<image> is mentioned 1 times, but there is no image"),
    "special token": (record("x", IMAGE, "Q", "It is [SEG]."), r"turn 1 contains '\[SEG\]'"),
    "missing field": ({"id": "x", "image": IMAGE}, "the field 'conversations' is missing"),
    "list of pictures": (record("x", [IMAGE], "Q", "A"), "expected a path below the data folder"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_conversation_is_named_or_left_out(case, root, tmp_path):
    broken, message = BROKEN[case]
    write(root, MIX, [RECORDS[0], broken])
    with pytest.raises(ValueError, match=f"llava_mix665k train: {MIX}, record x: .*{message}.*docs page LLaVA"):
        load("llava_mix665k", "train", root, cache_dir=tmp_path)
    assert [sample.image_id for sample in load("llava_mix665k", "train", root, cache_dir=tmp_path, on_error="skip")] == ["a"]


def test_a_file_of_something_else_is_refused(root, tmp_path):
    write(root, MIX, {"conversations": []})
    with pytest.raises(ValueError, match=f"llava_mix665k train: .*{MIX} is not a list of conversations; see the docs page LLaVA"):
        load("llava_mix665k", "train", root, cache_dir=tmp_path)


# Captions

CAPTIONS = [record("a", "00/a.jpg", "Describe it.\n<image>", "a cup "), record("b", "00/b.jpg", "<image>\nSay what you see.", "a can")]


@pytest.fixture
def captions(tmp_path):
    for folder in (tmp_path / "direct/00", tmp_path / "nested/images/00"):
        folder.mkdir(parents=True)
        for number, name in enumerate("ab"):
            (folder / f"{name}.jpg").write_bytes(jpeg(number))
    for folder in ("direct", "nested"):
        write(tmp_path / folder, "blip_laion_cc_sbu_558k.json", CAPTIONS)
        write(tmp_path / folder, "chat.json", CAPTIONS)
    return tmp_path


@pytest.mark.parametrize("name", ["llava_pretrain_558k", "llava_pretrain_595k"])
@pytest.mark.parametrize("folder, images", [("direct", ""), ("nested", "images/")])
def test_captions_answer_an_instruction(name, folder, images, captions, tmp_path):
    dataset = load(name, "train", captions / folder, cache_dir=tmp_path)
    assert [texts(sample) for sample in dataset] == [
        [("user", "Describe it."), ("assistant", "a cup ")],
        [("user", "Say what you see."), ("assistant", "a can")],
    ]
    assert dataset[1].image == str(captions / folder / f"{images}00/b.jpg") and dataset[1].image_size == SIZE


def test_captions_stand_alone_for_stage_1(captions, tmp_path):
    dataset = load("llava_pretrain_558k", "train", captions / "direct", cache_dir=tmp_path, caption_only=True)
    assert [texts(sample) for sample in dataset] == [[("assistant", "a cup ")], [("assistant", "a can")]]


def test_a_caption_is_one_turn(captions, tmp_path):
    write(captions / "direct", "chat.json", [record("a", "00/a.jpg", "Q", "A", "Q", "A")])
    with pytest.raises(ValueError, match="chat.json, record a: expected one instruction and one caption, got 4 messages"):
        load("llava_pretrain_595k", "train", captions / "direct", cache_dir=tmp_path)


# Shards


def write_shard(path, *members):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def encoded(content):
    return json.dumps(content).encode()


@pytest.fixture
def shards(tmp_path):
    """Three files: LLaVA's records, captions as text, and captions of img2dataset with folders in the names."""
    folder = tmp_path / "shards"
    own = {"id": "of no use", "conversations": turns("<image>\nDescribe it.", "a cup")}
    write_shard(folder / "0.tar", ("a.jpg", jpeg(0)), ("a.json", encoded(own)), ("b.JPG", jpeg(1)), ("b.json", encoded(own)))
    write_shard(folder / "1.tar", ("c.png", jpeg(2, "PNG")), ("c.txt", b" a can\n"), ("c.json", encoded({"caption": "no", "width": 1})))
    write_shard(
        folder / "2.tar", ("00/d.json", encoded({"caption": "a bowl"})), ("00/d.jpg", jpeg(3)), ("01/d.txt", b"e"), ("01/d.jpg", jpeg(4))
    )
    return folder


@pytest.mark.parametrize("name", ["llava_pretrain_558k", "llava_pretrain_595k"])
@pytest.mark.parametrize("streaming", [True, False])
def test_members_of_a_shard_are_paired_by_key(name, streaming, shards, tmp_path):
    loaded = load(name, "train", shards, cache_dir=tmp_path, streaming=streaming, check_images=True)
    dataset = list(loaded)
    assert [sample.image_id for sample in dataset] == ["a", "b", "c", "00/d", "01/d"]
    assert [texts(sample)[1] for sample in dataset] == [("assistant", text) for text in ("a cup", "a cup", "a can", "a bowl", "e")]
    instruction = "Provide a brief description of the given image."
    assert [texts(sample)[0][1] for sample in dataset] == ["Describe it."] * 2 + [instruction] * 3
    assert [row["image"]["bytes"] for row in loaded.rows] == [jpeg(0), jpeg(1), jpeg(2, "PNG"), jpeg(3), jpeg(4)]
    assert all(sample.image_size == SIZE for sample in dataset)


def test_shards_are_what_ranks_and_processes_divide(shards, tmp_path):
    write_shard(shards / "3.tar", ("f.jpg", jpeg(5)), ("f.txt", b"f"))
    rows = load("llava_pretrain_558k", "train", shards, cache_dir=tmp_path, streaming=True, caption_only=True).rows
    assert rows.num_shards == 4
    parts = [[row["image_id"] for row in split_dataset_by_node(rows, rank=rank, world_size=2)] for rank in range(2)]
    assert parts == [["a", "b", "00/d", "01/d"], ["c", "f"]]
    one = load("llava_pretrain_558k", "train", shards, cache_dir=tmp_path / "one")
    two = load("llava_pretrain_558k", "train", shards, cache_dir=tmp_path / "two", num_proc=2)
    assert list(one.rows) == list(two.rows)


def test_shards_can_be_named_beside_a_json_file(shards, tmp_path):
    write(shards, "chat.json", CAPTIONS)
    dataset = load("llava_pretrain_595k", "train", shards, cache_dir=tmp_path, shards="[12].tar")
    assert [sample.image_id for sample in dataset] == ["c", "00/d", "01/d"]
    with pytest.raises(FileNotFoundError, match=r"llava_pretrain_595k train: no file in .* has a name like x\*.tar"):
        load("llava_pretrain_595k", "train", shards, cache_dir=tmp_path, shards="x*.tar")
    with pytest.raises(ValueError, match="leave file and image_folder out"):
        load("llava_pretrain_595k", "train", shards, cache_dir=tmp_path, shards="*.tar", file="chat.json")


BROKEN_SHARDS = {
    "no picture": ([("x.txt", b"a cup")], "expected one image, got txt"),
    "two pictures": ([("x.jpg", jpeg()), ("x.png", jpeg()), ("x.txt", b"a")], "expected one image, got jpg, png, txt"),
    "one picture twice": ([("x.jpg", jpeg()), ("x.jpg", jpeg()), ("x.txt", b"a")], "has it twice as .jpg"),
    "no caption": ([("x.jpg", jpeg()), ("x.cls", b"1")], "no caption as .txt or .json, only jpg, cls"),
    "blank caption": ([("x.jpg", jpeg()), ("x.txt", b" ")], "the caption is blank"),
    "caption of bytes": ([("x.jpg", jpeg()), ("x.txt", b"\xff")], "can't decode byte 0xff"),
    "no JSON": ([("x.jpg", jpeg()), ("x.json", b"{")], "Expecting property name"),
    "JSON of something else": ([("x.jpg", jpeg()), ("x.json", b"[]")], "expected a JSON object"),
    "not a picture": ([("x.jpg", b"<html>"), ("x.txt", b"a")], "image x.jpg cannot be read"),
}


@pytest.mark.parametrize("case", BROKEN_SHARDS)
def test_a_broken_member_is_named_or_left_out_and_counted(case, shards, tmp_path, capsys):
    members, message = BROKEN_SHARDS[case]
    write_shard(shards / "1.tar", *members)
    with pytest.raises(ValueError, match=f"llava_pretrain_558k train: 1.tar, x: .*{message}.*on_error='skip'; see the docs page LLaVA"):
        load("llava_pretrain_558k", "train", shards, cache_dir=tmp_path)
    dataset = load("llava_pretrain_558k", "train", shards, cache_dir=tmp_path, on_error="skip")
    assert [sample.image_id for sample in dataset] == ["a", "b", "00/d", "01/d"]
    assert "1 of 5 records are broken and left out, the first: llava_pretrain_558k train: 1.tar, x:" in capsys.readouterr().err


def test_a_member_that_is_long_in_its_header_alone_is_not_unpacked(shards, tmp_path):
    """A sparse member of 20 GB in a file of 2 kB: all of it is a hole."""
    header = tarfile.TarInfo("x.jpg")
    header.type = tarfile.GNUTYPE_SPARSE
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    block[482] = 0  # no more parts of the map, which is empty
    block[483:495] = b"%011o " % (20 * 2**30)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (shards / "1.tar").write_bytes(bytes(block) + bytes(1024))
    with tarfile.open(shards / "1.tar") as archive:
        assert [(member.isfile(), member.size) for member in archive] == [(True, 20 * 2**30)]
    with pytest.raises(ValueError, match=r"1\.tar, x: .*x\.jpg brings the record to 21474836480 bytes; at most 268435456 are read"):
        load("llava_pretrain_558k", "train", shards, cache_dir=tmp_path)
    kept = load("llava_pretrain_558k", "train", shards, cache_dir=tmp_path, on_error="skip")
    assert [sample.image_id for sample in kept] == ["a", "b", "00/d", "01/d"]


@pytest.mark.parametrize("damage", ["inside a member", "inside a header", "between members", "in a header"])
def test_a_shard_that_breaks_off_is_a_broken_record(damage, shards, tmp_path):
    content = (shards / "0.tar").read_bytes()
    second_header = content.index(b"b.JPG")
    if damage == "in a header":
        content = content[:second_header] + b"?" * 512 + content[second_header + 512 :]
    else:
        content = content[: {"inside a member": second_header + 600, "inside a header": second_header + 100}.get(damage, second_header)]
    (shards / "0.tar").write_bytes(content)
    with pytest.raises(ValueError, match="llava_pretrain_558k train: 0.tar, [ab]: the tar file breaks off here .*download it again"):
        load("llava_pretrain_558k", "train", shards, cache_dir=tmp_path)
    dataset = load("llava_pretrain_558k", "train", shards, cache_dir=tmp_path, on_error="skip")
    assert [sample.image_id for sample in dataset][-3:] == ["c", "00/d", "01/d"]


def test_what_is_no_shard_is_refused_even_where_broken_records_are_left_out(shards, tmp_path):
    (shards / "1.tar").write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match="1.tar is not a tar file"):
        load("llava_pretrain_558k", "train", shards, cache_dir=tmp_path, on_error="skip")


def test_without_captions_the_json_file_is_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="llava_pretrain_595k train: there is no chat.json in"):
        load("llava_pretrain_595k", "train", tmp_path, cache_dir=tmp_path)


def test_the_processor_takes_the_rows(root, captions, tmp_path, tiny_checkpoint):
    from psalm_hf import PsalmProcessor
    from psalm_hf.data.collator import PsalmCollator

    processor = PsalmProcessor.from_pretrained(tiny_checkpoint)
    sample = load("llava_mix665k", "train", root, cache_dir=tmp_path)[1]
    ids = PsalmCollator(processor)([sample])["input_ids"][0].tolist()
    first = ids.index(processor.image_token_id)
    after = ids[first + processor.image_grid[0] * processor.image_grid[1] :]
    # In front of the text, where the file has it in the middle.
    assert first and processor.image_token_id not in after
    assert processor.tokenizer.decode(ids[:first]).strip().endswith("<</SYS>>")
    written = processor.tokenizer("\nWhat is it?\n\nAnswer shortly. [/INST]", add_special_tokens=False)["input_ids"]
    assert after[: len(written)] == written

    caption = load("llava_pretrain_558k", "train", captions / "direct", cache_dir=tmp_path, caption_only=True)[1]
    ids = PsalmCollator(processor, prompt_style="plain")([caption])["input_ids"][0].tolist()
    written = processor.tokenizer("a can\n", add_special_tokens=False)["input_ids"]
    assert [id for id in ids if id != processor.image_token_id] == written


# The real files.

samples = pytest.mark.samples
REAL = {
    "llava_mix665k": (SAMPLES, "", SAMPLES / "llava" / MIX),
    "llava_pretrain_558k": (SAMPLES / "llava_pretrain", "images", SAMPLES / "llava_pretrain/blip_laion_cc_sbu_558k.json"),
    "llava_pretrain_595k": (SAMPLES / "llava_pretrain_cc3m", "images", SAMPLES / "llava_pretrain_cc3m/chat.json"),
}


@samples
@pytest.mark.parametrize("name", REAL)
def test_real_conversations_have_the_texts_and_pictures_of_the_file(name, tmp_path):
    root, folder, file = REAL[name]
    records = json.loads(file.read_text(encoding="utf-8"))
    dataset = load(name, "train", root, cache_dir=tmp_path, check_images=True)
    assert [sample.image_id for sample in dataset] == [str(record["id"]) for record in records]
    for sample, record in zip(dataset, records, strict=True):
        expected = [
            (
                {"human": "user", "gpt": "assistant"}[turn["from"]],
                turn["value"].replace("<image>", "").strip() if "<image>" in turn["value"] else turn["value"],
            )
            for turn in record["conversations"]
        ]
        assert texts(sample) == expected[1 if expected[0][0] == "assistant" else 0 :]
        if "image" not in record:
            assert sample.image is None
            continue
        pixels = np.asarray(Image.open(root / folder / record["image"]))
        assert np.array_equal(np.asarray(Image.open(sample.image)), pixels) and sample.image_size == pixels.shape[:2]
    if name == "llava_mix665k":
        dropped = load(name, "train", root, cache_dir=tmp_path, text_only="drop")
        assert [sample.image_id for sample in dropped] == [str(record["id"]) for record in records if "image" in record]


@samples
@pytest.mark.parametrize("name", REAL)
def test_real_conversations_are_the_same_twice_and_divide_among_two_ranks(name, tmp_path):
    dataset = load(name, "train", REAL[name][0], cache_dir=tmp_path, streaming=True)
    first = list(dataset)
    assert list(dataset) == first == list(load(name, "train", REAL[name][0], cache_dir=tmp_path))
    parts = [[row["image_id"] for row in split_dataset_by_node(dataset.rows, rank=rank, world_size=2)] for rank in range(2)]
    assert all(parts) and sorted(parts[0] + parts[1]) == sorted(sample.image_id for sample in first)
