"""The shapes world: every task of the model, without a download, as samples, as an endless stream and as a dataset.

`shapes_scene` draws the pictures, `shapes_language` speaks about them, and here they become samples. Scene `index` of a split is a pure
function of (seed, split, index): any order and number of processes gives the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import datasets
from PIL import Image

from ...structures import REGION_KINDS, Region, RegionKind, Sample, Segment
from ..features import Category, RowBuilder, RowConfig, encode_png, row_from_sample
from ..visual_prompts import AMPLITUDE, draw_prompt
from .language import MAX_PROMPTS, caption, expressions, phrase_categories, questions
from .scene import PROMPTS, SHAPES, SPLITS, STUFF, Dice, Scene, make_scene

TASKS = ("panoptic", "referring", "interactive", "conversation", "caption")
CATEGORIES = tuple(
    [Category(index, name, is_thing=True) for index, name in enumerate(SHAPES, 1)]
    + [Category(index, name, is_thing=False) for index, name in enumerate(STUFF, len(SHAPES) + 1)]
)
NUM_IMAGES = {"train": 10_000, "validation": 500, "test": 500, "unseen": 500}  # where nobody says otherwise; every split is endless
IMAGES_PER_SHARD = 250

_STUFF_IDS = {category.name: category.id for category in CATEGORIES if not category.is_thing}
_THING_IDS = {category.name: category.id for category in CATEGORIES if category.is_thing}
_FIRST_PHRASE_ID = 101
_PHOTO_SIDE = 640  # pixels; the lengths in the rules of scribbles are meant for photographs


@dataclass(frozen=True)
class ShapesStream:
    """Samples of one task without end: `stream[n]` for any n >= 0, or iterated from any n.

    Attributes:
        task: "panoptic": all things and stuff; "referring": expressions; "interactive": a visual prompt for every thing;
            "conversation": a question and its answer; "caption": what is in the picture, said by the assistant alone.
        split: "train", "validation", "test", or "unseen" with pairs of colour and shape that the others never show.
        seed: of the world.
        image_size: side of the pictures in pixels, 64 to 1024.
        prompts_per_image: samples per picture, 1 to 16, of the tasks "referring" and "conversation"; the others have one. The samples of
            a picture follow each other.
        phrase_percent: how often, in percent, the categories of "panoptic" are phrases ("striped red star") instead of shapes.
        region_kind: of "interactive"; None = drawn anew for every thing.

    Raises:
        ValueError: an option out of its range, with the valid ones.
    """

    task: str = "panoptic"
    split: str = "train"
    seed: int = 0
    image_size: int = 128
    prompts_per_image: int = 4
    phrase_percent: int = 0
    region_kind: RegionKind | None = None

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("task", self.task, TASKS),
            ("split", self.split, SPLITS),
            ("region_kind", self.region_kind, (None, *REGION_KINDS)),
        ):
            if value not in allowed:
                raise ValueError(f"shapes: unknown {name} {value!r}, expected one of {', '.join(map(str, allowed))}")
        for name, value, low, high in (
            ("image_size", self.image_size, 64, 1024),
            ("prompts_per_image", self.prompts_per_image, 1, MAX_PROMPTS),
            ("phrase_percent", self.phrase_percent, 0, 100),
        ):
            if not low <= value <= high:
                raise ValueError(f"shapes: {name} must be {low} to {high}, got {value}")
        if self.seed < 0:
            raise ValueError(f"shapes: seed must be at least 0, got {self.seed}")

    @property
    def samples_per_image(self) -> int:
        """How many samples in a row share a picture."""
        return self.prompts_per_image if self.task in ("referring", "conversation") else 1

    def __getitem__(self, index: int) -> Sample:
        if index < 0:
            raise IndexError(f"a stream without end has no sample {index}")
        scene, number = divmod(index, self.samples_per_image)
        return self.samples(scene)[number]

    def __iter__(self) -> Iterator[Sample]:
        return self.from_sample(0)

    def from_sample(self, index: int) -> Iterator[Sample]:
        """`self[index]`, `self[index + 1]`, ... without end, every picture drawn once; how a run resumes."""
        scene, number = divmod(index, self.samples_per_image)
        while True:
            yield from self.samples(scene)[number:]
            scene, number = scene + 1, 0

    def scene(self, index: int) -> Scene:
        """Scene number `index`, with all its truth."""
        return make_scene(self.split, index, seed=self.seed, image_size=self.image_size)

    def samples(self, scene: int) -> list[Sample]:
        """The `samples_per_image` samples of scene number `scene`; they share one PIL image.

        Their tags: the kind of the expression or question; "no_target", "one_target" or "several_targets"; "held_out" if a target is a pair
        of colour and shape that training never shows; of "interactive", "held_out:0" or "seen:0" for segment 0, and so on.
        """
        drawn = self.scene(scene)
        image = Image.fromarray(drawn.image)
        if self.task == "panoptic":
            return [self._panoptic(drawn, image)]
        if self.task == "interactive":
            return [self._interactive(drawn, image)]
        if self.task == "caption":
            message = {"role": "assistant", "content": caption(drawn)}
            return [Sample(image, drawn.image_id, drawn.image.shape[:2], conversation=(message,))]
        if self.task == "conversation":
            return _conversations(drawn, image, self.prompts_per_image)
        return _referring(drawn, image, self.prompts_per_image)

    def _panoptic(self, scene: Scene, image: Image.Image) -> Sample:
        names, ids = dict(_THING_IDS), [_THING_IDS[thing.shape] for thing in scene.things]
        if scene.dice(PROMPTS).percent(self.phrase_percent):
            phrases, positions = phrase_categories(scene)
            names = {phrase.singular: id for id, phrase in enumerate(phrases, _FIRST_PHRASE_ID)}
            ids = [_FIRST_PHRASE_ID + position for position in positions]
        things = [Segment(thing.mask_rle, id) for thing, id in zip(scene.things, ids, strict=True)]
        stuff = [Segment(scene.stuff_rle(name), _STUFF_IDS[name]) for name in scene.stuff]
        categories = {id: name for name, id in (names | _STUFF_IDS).items()}
        return Sample(image, scene.image_id, scene.image.shape[:2], segments=(*things, *stuff), categories=categories)

    def _interactive(self, scene: Scene, image: Image.Image) -> Sample:
        dice = scene.dice(PROMPTS)
        drawn = [self._region(scene, number, dice) for number in range(len(scene.things))]
        found = [(thing, region) for thing, region in zip(scene.things, drawn, strict=True) if region is not None]
        return Sample(
            image,
            scene.image_id,
            scene.image.shape[:2],
            segments=tuple(Segment(thing.mask_rle, _THING_IDS[thing.shape]) for thing, _ in found),
            regions=tuple(Region(region.kind, region.points, region.mask_rle, number) for number, (_, region) in enumerate(found)),
            tags=tuple(f"{'held_out' if thing.is_held_out else 'seen'}:{number}" for number, (thing, _) in enumerate(found)),
        )

    def _region(self, scene: Scene, number: int, dice: Dice) -> Region | None:
        """A prompt for one thing. Small remains of a thing may have no point or no mask by the rules: then another kind is drawn, or,
        if one kind was asked for, none."""
        kinds = dice.sample(REGION_KINDS, len(REGION_KINDS)) if self.region_kind is None else [self.region_kind]
        annotation = (scene.index * len(SPLITS) + SPLITS.index(scene.split)) * 16 + number  # a scene has at most 10 things
        scale = self.image_size / _PHOTO_SIDE
        amplitude = (AMPLITUDE[0] * scale, AMPLITUDE[1] * scale)
        for kind in kinds:
            region = draw_prompt(scene.things[number].mask, kind, seed=scene.seed, annotation_id=annotation, amplitude=amplitude)
            if region is not None:
                return region
        return None


def _referring(scene: Scene, image: Image.Image, number: int) -> list[Sample]:
    found = []
    for index, expression in enumerate(expressions(scene, number)):
        targets = [scene.things[target] for target in expression.targets]
        tags = [expression.kind, {0: "no_target", 1: "one_target"}.get(len(targets), "several_targets")]
        if any(thing.is_held_out for thing in targets):
            tags.append("held_out")
        segments = tuple(Segment(thing.mask_rle, _THING_IDS[thing.shape]) for thing in targets)
        sample = Sample(image, scene.image_id, scene.image.shape[:2], segments, expressions=(expression.text,))
        found.append(replace(sample, record_id=str(index), tags=tuple(tags)))
    return found


def _conversations(scene: Scene, image: Image.Image, number: int) -> list[Sample]:
    found = []
    for index, question in enumerate(questions(scene, number)):
        messages = ({"role": "user", "content": question.text}, {"role": "assistant", "content": question.answer})
        sample = Sample(image, scene.image_id, scene.image.shape[:2], conversation=messages)
        found.append(replace(sample, record_id=str(index), tags=(question.kind,)))
    return found


def scene_of(sample: Sample) -> Scene:
    """The scene that a sample of this world is about, drawn again with all its truth.

    Raises:
        ValueError: a sample of another dataset.
    """
    parts = str(sample.image_id).split("/")
    if len(parts) != 4 or parts[0] != "shapes":
        raise ValueError(f"image {sample.image_id}: expected the id of a scene, such as shapes/test/0/41; give rows of shapes")
    return _drawn_again(parts[1], int(parts[3]), int(parts[2]), sample.image_size[0])


@lru_cache(maxsize=1)  # rows about one scene follow each other
def _drawn_again(split: str, index: int, seed: int, image_size: int) -> Scene:
    return make_scene(split, index, seed=seed, image_size=image_size)


@dataclass
class ShapesConfig(RowConfig):
    """`num_images` of the split (default `NUM_IMAGES`), and the options of `ShapesStream`."""

    num_images: int | None = None
    task: str = "panoptic"
    seed: int = 0
    image_size: int = 128
    prompts_per_image: int = 4
    phrase_percent: int = 0
    region_kind: RegionKind | None = None


class Shapes(RowBuilder):
    """The first scenes of a split as a dataset."""

    BUILDER_CONFIG_CLASS = ShapesConfig

    @property
    def categories(self) -> tuple[Category, ...]:
        """Eight shapes and four kinds of stuff."""
        return CATEGORIES

    @property
    def stream(self) -> ShapesStream:
        """What the rows are taken from."""
        config = self.config
        return ShapesStream(
            task=config.task,
            split=config.split,
            seed=config.seed,
            image_size=config.image_size,
            prompts_per_image=config.prompts_per_image,
            phrase_percent=config.phrase_percent,
            region_kind=config.region_kind,
        )

    def _info(self) -> datasets.DatasetInfo:
        if self.config.num_images is not None and self.config.num_images < 1:
            raise ValueError(f"shapes: num_images must be at least 1, got {self.config.num_images}")
        _ = self.stream  # refuses wrong options before anything is written
        return super()._info()

    def shards(self) -> dict[str, list]:
        """Spans [first scene, end]."""
        end = NUM_IMAGES[self.config.split] if self.config.num_images is None else self.config.num_images
        return {"spans": [[first, min(first + IMAGES_PER_SHARD, end)] for first in range(0, end, IMAGES_PER_SHARD)]}

    def _generate_examples(self, spans: list[list[int]]) -> Iterator[tuple[str, dict]]:
        with_categories = self.config.phrase_percent > 0  # those of a picture with phrases are its own
        for first, end in spans:
            for scene in range(first, end):
                samples = self.stream.samples(scene)
                png = encode_png(samples[0].image)  # once, the samples share it
                for number, sample in enumerate(samples):
                    yield f"{scene}-{number}", row_from_sample(replace(sample, image=png), with_categories=with_categories)
