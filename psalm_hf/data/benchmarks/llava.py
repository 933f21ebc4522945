"""LLaVA's data: captions for alignment (558K, 595K) and the instruction mixture (mix665k). See docs/datasets/llava.md."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from ...bounded_files import refuse_pipe
from ...structures import CONVERSATION
from ..files import FileBuilder, FileConfig
from .conversations import TextOnly, check_text

IMAGE_MARK = "<image>"  # in the files
ROLES = {"human": "user", "gpt": "assistant"}
OCR_VQA_ENDINGS = (".png", ".gif", ".jpeg", ".webp", ".bmp", ".tif")  # that the server may have given a file that the JSON calls .jpg
_IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp")  # in shards
CAPTION_INSTRUCTION = "Provide a brief description of the given image."  # where a shard has captions alone; one of LLaVA's own
END_OF_TAR = bytes(512)
MAX_RECORD_BYTES = 2**28  # of the members of a shard with one key: an image and its texts


def read_turns(turns: Any, has_image: bool) -> list[dict[str, str]]:
    """Messages of a LLaVA conversation: they start with the user and end with the assistant.

    A first turn of the assistant is dropped. `<image>` is taken out, with the blanks around the rest of its turn, because the
    processor puts the image in front, as LLaVA does.

    Raises:
        ValueError: another form, turns that do not alternate, no answer at the end, `<image>` without image or twice, see `check_text`.
    """
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) and turn.get("from") in ROLES for turn in turns):
        raise ValueError(f"`conversations` is not a list of turns from {' and '.join(ROLES)}: {turns!r:.80}")
    first = 1 if turns and turns[0]["from"] == "gpt" else 0
    messages, mentions = [], 0
    for number, turn in enumerate(turns[first:], first):
        expected = ("human", "gpt")[len(messages) % 2]
        if turn["from"] != expected:
            raise ValueError(f"turn {number} is from {turn['from']}, expected {expected}: turns alternate")
        text = turn["value"]
        if expected == "human" and isinstance(text, str) and IMAGE_MARK in text:
            mentions += text.count(IMAGE_MARK)
            text = text.replace(IMAGE_MARK, "").strip()
        messages.append({"role": ROLES[expected], "content": check_text(text, f"turn {number}")})
    if not messages or messages[-1]["role"] != "assistant":
        raise ValueError("the conversation does not end with an answer, so there is nothing to learn at its end")
    if mentions > int(has_image):
        raise ValueError(f"{IMAGE_MARK} is mentioned {mentions} times, but there is {'one image' if has_image else 'no image'}")
    return messages


@dataclass
class LlavaConfig(FileConfig):
    """`file`: the JSON file, below `data_dir`; None = the published name."""

    file: str | None = None


class LlavaBuilder(FileBuilder):
    """Base of the three: a JSON list of records with `id`, `image` and `conversations`.

    Attributes:
        published_file: name of the list.
    """

    BUILDER_CONFIG_CLASS = LlavaConfig
    docs_page = "LLaVA"
    splits = ("train",)
    published_file: ClassVar[str]

    @property
    def file(self) -> str:
        return self.config.file or self.published_file

    def records(self) -> list[Mapping[str, Any]]:
        content = self.json(self.file)
        if not isinstance(content, list):
            raise ValueError(self.message(f"{self.path(self.file)} is not a list of conversations"))
        return content

    def describe(self, record: Mapping[str, Any]) -> str:
        return f"{self.file}, record {record['id']}"


@dataclass
class LlavaMixConfig(LlavaConfig):
    """`text_only`: conversations without an image: "keep", or "drop" as the released training does."""

    text_only: TextOnly = "keep"


class LlavaMix(LlavaBuilder):
    """Conversations of one or more turns about images of COCO, GQA, OCR-VQA, TextVQA and Visual Genome, or about none."""

    BUILDER_CONFIG_CLASS = LlavaMixConfig
    summary = "LLaVA-1.5 instruction data: conversations about images, and some without"
    published_file = "llava_v1_5_mix665k.json"
    published = {"train": {"records": 665_298}}

    @property
    def file(self) -> str:
        """The annotation file: by default beside the folders of images, or in `llava/` beside them."""
        return self.config.file or self.first_existing(self.published_file, f"llava/{self.published_file}")

    def records(self) -> list[Mapping[str, Any]]:
        """Records in the order of the file, without those that `text_only` drops."""
        records = super().records()
        return records if self.config.text_only == "keep" else [record for record in records if not _is_text_only(record)]

    def counts(self) -> dict[str, int]:
        """Numbers of all records of the file, and of those without an image."""
        records = super().records()
        return {"records": len(records), "text_only": sum(map(_is_text_only, records))}

    def row(self, record: Mapping[str, Any]) -> dict[str, Any]:
        image = record.get("image")
        return {
            **(self.image(self._existing(image)) if image else {"image": None, "image_size": None}),
            "image_id": str(record["id"]),
            "condition": CONVERSATION,
            "conversation": read_turns(record["conversations"], has_image=bool(image)),
        }

    def _existing(self, image: str) -> str:
        if "ocr_vqa/" in image:
            return self.first_existing(image, *(image.rpartition(".")[0] + ending for ending in OCR_VQA_ENDINGS))
        return image


def _is_text_only(record: Any) -> bool:
    return isinstance(record, Mapping) and not record.get("image")


class ShardRecord(NamedTuple):
    """Members of a tar file with one key: ending of the name -> contents. `problem` says how the tar file breaks off here."""

    shard: str
    key: str
    members: dict[str, list[bytes]]
    problem: str | None = None


def read_shard(path: str, shard: str) -> Iterator[ShardRecord]:
    """Records of a webdataset shard, read from its beginning to its end: `key.jpg` and `key.json` or `key.txt` follow each other.

    Raises:
        ValueError: not a tar file.
    """
    try:
        refuse_pipe(path)
        archive = tarfile.open(path, "r|")
    except tarfile.ReadError as error:
        raise ValueError(f"{path} is not a tar file ({error}); download it again, see the docs page {LlavaBuilder.docs_page}") from error
    key, members, size, problem = "", {}, 0, None
    with archive:
        try:
            for member in archive:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                previous, key = key, f"{folder}/{stem}" if folder else stem
                if members and key != previous:
                    yield ShardRecord(shard, previous, members)
                    members, size = {}, 0
                size += member.size  # a sparse member is as long as its header says, however short the file
                if not 0 <= member.size <= size <= MAX_RECORD_BYTES:
                    problem = f"{member.name:.80} brings the record to {size} bytes; at most {MAX_RECORD_BYTES} are read"
                    break
                members.setdefault(ending.lower(), []).append(archive.extractfile(member).read())
        except (tarfile.TarError, ValueError, OverflowError) as error:  # the others: numbers of extended headers
            problem = str(error)
    # tarfile takes a damaged or missing header behind the first member for the end.
    if problem is None and not _ends_at(path, archive.offset):
        problem = "no end mark behind the last member"
    if members and problem is None:
        yield ShardRecord(shard, key, members)
    if problem is not None:
        yield ShardRecord(shard, key, members, problem)


def _ends_at(path: str, offset: int) -> bool:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(len(END_OF_TAR)) == END_OF_TAR


@dataclass
class LlavaPretrainConfig(LlavaConfig):
    """Files, and the messages that are kept.

    Attributes:
        image_folder: folder of the images, below `data_dir`; None = `images` if there is such a folder, else `data_dir` itself.
        shards: pattern of tar files below `data_dir` that hold images and captions; None = `*.tar` if there is no JSON file.
        caption_only: leave the instruction out, for the prompt style "plain" of stage 1.
    """

    image_folder: str | None = None
    shards: str | None = None
    caption_only: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shards is not None and (self.file is not None or self.image_folder is not None):
            raise ValueError(f"{self.name}: shards hold the texts and images; leave file and image_folder out")


class LlavaPretrain(LlavaBuilder):
    """Base of the alignment data: one instruction and one caption per image, from a JSON file and a folder, or from tar files."""

    BUILDER_CONFIG_CLASS = LlavaPretrainConfig

    @cached_property
    def tar_files(self) -> tuple[str, ...]:
        """Shards below `data_dir`, sorted; () if captions are in a JSON file."""
        pattern = self.config.shards
        if pattern is None:
            if os.path.exists(self.path(self.file)):
                return ()
            pattern = "*.tar"
        self.path(pattern)  # that it stays inside
        folder = Path(self.config.data_dir)
        found = tuple(sorted(path.relative_to(folder).as_posix() for path in folder.glob(pattern)))
        if not found and self.config.shards is not None:
            raise FileNotFoundError(self.message(f"no file in {folder} has a name like {pattern}"))
        return found

    @property
    def image_folder(self) -> str:
        """Folder of the images, below `data_dir`; "" = `data_dir`."""
        if self.config.image_folder is not None:
            return self.config.image_folder
        return "images" if os.path.isdir(self.path("images")) else ""

    def annotation_files(self) -> tuple[str, ...]:
        return self.tar_files or super().annotation_files()

    def records(self) -> Any:
        """Records of the JSON file; or names of the shards, whose records are not known before they are read."""
        return self.tar_files or super().records()

    def counts(self) -> dict[str, int]:
        return {"shards": len(self.tar_files)} if self.tar_files else super().counts()

    def shards(self) -> dict[str, list]:
        """Spans of records; or one span per tar file, so that each is read once, from its beginning to its end."""
        if not self.tar_files:
            return super().shards()
        return {"spans": [[number, number + 1] for number in range(len(self.tar_files))]}

    def describe(self, record: Mapping[str, Any] | ShardRecord) -> str:
        return f"{record.shard}, {record.key}" if isinstance(record, ShardRecord) else super().describe(record)

    def row(self, record: Mapping[str, Any] | ShardRecord) -> dict[str, Any]:
        if isinstance(record, ShardRecord):
            return self._shard_row(record)
        image = record["image"]
        if not isinstance(image, str):
            raise ValueError(f"expected a path as `image`, got {image!r:.80}")
        columns = self.image(f"{self.image_folder}/{image}" if self.image_folder else image)
        return self._row(columns, str(record["id"]), read_turns(record["conversations"], has_image=True))

    def records_of(self, first: int, end: int) -> Iterator[Mapping[str, Any] | ShardRecord]:
        if not self.tar_files:
            return super().records_of(first, end)
        return (record for shard in self.tar_files[first:end] for record in read_shard(self.path(shard), shard))

    def _shard_row(self, record: ShardRecord) -> dict[str, Any]:
        if record.problem is not None:
            raise ValueError(f"the tar file breaks off here ({record.problem}); download it again")
        twice = [ending for ending, contents in record.members.items() if len(contents) > 1]
        if twice:
            raise ValueError(f"the shard has it twice as .{twice[0]}")
        members = {ending: contents[0] for ending, contents in record.members.items()}
        images = [ending for ending in members if ending in _IMAGE_ENDINGS]
        if len(images) != 1:
            raise ValueError(f"expected one image, got {', '.join(members)}")
        columns = self.image_bytes(members[images[0]], f"{record.key}.{images[0]}")
        return self._row(columns, record.key, _shard_messages(members))

    def _row(self, columns: Mapping[str, Any], image_id: str, messages: list[dict[str, str]]) -> dict[str, Any]:
        if len(messages) != 2:
            raise ValueError(f"expected one instruction and one caption, got {len(messages)} messages")
        conversation = messages[1:] if self.config.caption_only else messages
        return {**columns, "image_id": image_id, "condition": CONVERSATION, "conversation": conversation}


def _shard_messages(members: Mapping[str, bytes]) -> list[dict[str, str]]:
    """Instruction and caption: a record of LLaVA as .json, else the text of .txt, else `caption` of .json."""
    content = json.loads(members["json"].decode("utf-8")) if "json" in members else {}
    if not isinstance(content, Mapping):
        raise ValueError(f"expected a JSON object, got {content!r:.80}")
    if "conversations" in content:
        return read_turns(content["conversations"], has_image=True)
    caption = members["txt"].decode("utf-8").strip() if "txt" in members else content.get("caption")
    if caption is None:
        raise ValueError(f"there is no caption as .txt or .json, only {', '.join(members)}")
    return [{"role": "user", "content": CAPTION_INSTRUCTION}, {"role": "assistant", "content": check_text(caption, "the caption")}]


class LlavaPretrain558k(LlavaPretrain):
    """Captions of LAION, CC and SBU images by BLIP."""

    summary = "LLaVA-1.5 alignment data: images and captions, in files or tar shards"
    published_file = "blip_laion_cc_sbu_558k.json"


class LlavaPretrain595k(LlavaPretrain):
    """Captions of CC3M."""

    summary = "LLaVA alignment data of CC3M: images and captions, in files or tar shards"
    published_file = "chat.json"
