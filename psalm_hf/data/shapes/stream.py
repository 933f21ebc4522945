"""Samples of the shapes world: every task of the model, without a download, as an endless stream and as a dataset.

`scene` draws the images, `language` speaks about them, and here they become samples. Seed, split and index alone decide a scene: any order
and number of processes gives the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

from PIL import Image

from ...structures import REGION_KINDS, Region, RegionKind, Sample, Segment
from ..features import Category, encode_png, row_from_sample
from ..visual_prompts import AMPLITUDE, draw_prompt
from .builder import DrawnBuilder, DrawnConfig
from .language import MAX_PROMPTS, caption, expressions, phrase_categories, questions
from .scene import PROMPTS, SHAPES, SPLITS, STUFF, Dice, Scene, check_range, make_scene

STREAM_TASKS = ("panoptic", "referring", "interactive", "conversation", "caption")
CATEGORIES = tuple(
    [Category(index, name, is_thing=True) for index, name in enumerate(SHAPES, 1)]
    + [Category(index, name, is_thing=False) for index, name in enumerate(STUFF, len(SHAPES) + 1)]
)

_STUFF_IDS = {category.name: category.id for category in CATEGORIES if not category.is_thing}
_THING_IDS = {category.name: category.id for category in CATEGORIES if category.is_thing}
_FIRST_PHRASE_ID = 101
_PHOTO_SIDE = 640  # pixels; the lengths in the rules of scribbles are meant for photographs


@dataclass(frozen=True)
class ShapesStream:
    """Samples of one task without end: `stream[n]` for any n >= 0, or iterated from any n. Neighbours on one image share it, drawn once.

    Attributes:
        task: "panoptic": all things and stuff; "referring": expressions; "interactive": a visual prompt for every thing;
            "conversation": a question and its answer; "caption": a description of the image, said by the assistant alone.
        split: "train", "validation", "test", or "unseen" with pairs of colour and shape that the others never show.
        seed: of the world.
        image_size: side of the images in pixels, 64 to 1024.
        prompts_per_image: samples per image, 1 to 16, of the tasks "referring" and "conversation"; the others have one. The samples of
            an image follow each other.
        phrase_percent: percent of the images in which the categories of "panoptic" are phrases ("striped red star") instead of shapes.
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
            ("task", self.task, STREAM_TASKS),
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
            check_range("shapes", name, value, low, high)
        check_range("shapes", "seed", self.seed, 0)

    @property
    def samples_per_image(self) -> int:
        """Number of samples in a row that share an image."""
        return self.prompts_per_image if self.task in ("referring", "conversation") else 1

    def __getitem__(self, index: int) -> Sample:
        if index < 0:
            raise IndexError(f"a stream without end has no sample {index}")
        scene, number = divmod(index, self.samples_per_image)
        return _samples_of(self, scene)[number]

    def __iter__(self) -> Iterator[Sample]:
        return self.from_sample(0)

    def from_sample(self, index: int) -> Iterator[Sample]:
        """Samples `self[index]`, `self[index + 1]`, ... without end; every image is drawn once. A run resumes with it."""
        scene, number = divmod(index, self.samples_per_image)
        while True:
            yield from self.samples(scene)[number:]
            scene, number = scene + 1, 0

    def scene(self, index: int) -> Scene:
        """Scene number `index`."""
        return make_scene(self.split, index, seed=self.seed, image_size=self.image_size)

    def samples(self, scene: int) -> list[Sample]:
        """Samples of scene number `scene`, `samples_per_image` of them; they share one PIL image.

        Tags: the kind of the expression or question; "no_target", "one_target" or "several_targets"; "held_out" if a target is a pair of
        colour and shape that training never shows. Task "interactive": "held_out:0" or "seen:0" for segment 0, and so on.
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
        """Prompt for one thing. A thing of which little is visible may have no point or no mask by the rules: then another kind is drawn,
        or none if one kind was asked for."""
        kinds = dice.sample(REGION_KINDS, len(REGION_KINDS)) if self.region_kind is None else [self.region_kind]
        annotation = (scene.index * len(SPLITS) + SPLITS.index(scene.split)) * 16 + number  # a scene has at most 10 things
        scale = self.image_size / _PHOTO_SIDE
        amplitude = (AMPLITUDE[0] * scale, AMPLITUDE[1] * scale)
        for kind in kinds:
            region = draw_prompt(scene.things[number].mask, kind, seed=scene.seed, annotation_id=annotation, amplitude=amplitude)
            if region is not None:
                return region
        return None


@lru_cache(maxsize=len(STREAM_TASKS))  # the tasks of a mixture take turns, and batches may end within an image
def _samples_of(stream: ShapesStream, scene: int) -> tuple[Sample, ...]:
    return tuple(stream.samples(scene))


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
    """Scene of a sample of this world, drawn again.

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
class ShapesConfig(DrawnConfig):
    """`num_images` of the split, and the options of `ShapesStream`."""

    number = "num_images"
    num_images: int | None = None
    task: str = "panoptic"
    prompts_per_image: int = 4
    phrase_percent: int = 0
    region_kind: RegionKind | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.stream  # refuses wrong options before anything is written

    @property
    def stream(self) -> ShapesStream:
        """Stream of the samples."""
        return ShapesStream(**{field.name: getattr(self, field.name) for field in fields(ShapesStream)})


class Shapes(DrawnBuilder):
    """The shapes world as a dataset: the first scenes of a split."""

    BUILDER_CONFIG_CLASS = ShapesConfig
    summary = "drawn things on textured stuff; every task; endless, seeded, no download"

    @property
    def categories(self) -> tuple[Category, ...]:
        """Eight shapes and four kinds of stuff."""
        return CATEGORIES

    def rows_of(self, index: int) -> Iterator[dict[str, Any]]:
        samples = self.config.stream.samples(index)
        png = encode_png(samples[0].image)  # once, the samples share it
        for sample in samples:
            # Phrases are categories of their image alone.
            yield row_from_sample(replace(sample, image=png), with_categories=self.config.phrase_percent > 0)
