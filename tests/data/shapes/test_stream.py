"""The shapes world: what is said is true, the truth is exact, splits are apart, and everything depends on (seed, split, index) alone."""

import hashlib
import multiprocessing
import re
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from psalm_hf.data.shapes import scene as shapes_scene
from psalm_hf.data.shapes import stream as shapes_stream
from psalm_hf.data.shapes.language import EXPRESSION_KINDS, QUESTION_KINDS, caption, expressions, questions
from psalm_hf.data.shapes.scene import COLORS, HELD_OUT, PATTERNS, SHAPES, SPLITS, STUFF, make_scene
from psalm_hf.data.shapes.stream import CATEGORIES, STREAM_TASKS, ShapesStream
from psalm_hf.masks import bitmap_from_rle
from psalm_hf.structures import REGION_KINDS

PLURALS = {f"{shape}{'es' if shape == 'cross' else 's'}": shape for shape in (*SHAPES, "thing")}
NUMBERS = {"two": 2, "three": 3}
RANKS = {"second": 2, "third": 3, "fourth": 4}
# Which way (x, y) grows; of the words for the sides, for the extremes, and for the relations.
WAYS = {
    **dict.fromkeys(("left", "leftmost", "left of"), (-1, 0)),
    **dict.fromkeys(("right", "rightmost", "right of"), (1, 0)),
    **dict.fromkeys(("top", "topmost", "above"), (0, -1)),
    **dict.fromkeys(("bottom", "bottommost", "below"), (0, 1)),
}
ANY = "[a-z ]+?"
EXPRESSION = re.compile(
    rf"(?P<many>all|the)( (?P<number>{'|'.join(NUMBERS)}))?( (?P<rank>{'|'.join(RANKS)}))?"
    rf"( (?P<extreme>leftmost|rightmost|topmost|bottommost|largest|smallest))? (?P<phrase>{ANY})"
    rf"( from the (?P<side>left|right|top|bottom))?( (?P<relation>left of|right of|above|below) the (?P<anchor>{ANY}))?"
    rf"( on the (?P<stuff>{'|'.join(STUFF)}))?"
)


@pytest.fixture(scope="module")
def scenes():
    return [make_scene("train", index) for index in range(500)]


@pytest.fixture(scope="module")
def unseen_scenes():
    return [make_scene("unseen", index) for index in range(100)]


# A reader of its own: it knows the words, the attributes of the things and their visible masks, and nothing of how anything was made.


class Reader:
    """Resolves expressions and questions; `doubt` counts the margin, in pixels, by which things may be elsewhere than they are."""

    def __init__(self, scene, doubt=0.0):
        self.scene, self.doubt = scene, doubt
        self.centers = [np.argwhere(thing.mask).mean(axis=0)[::-1] for thing in scene.things]
        self.areas = [int(thing.mask.sum()) for thing in scene.things]

    def described(self, phrase):
        words = phrase.split()
        words[-1] = PLURALS.get(words[-1], words[-1])
        unknown = set(words) - {*SHAPES, *COLORS, *PATTERNS, "thing"}
        assert not unknown, f"{phrase!r} has words nobody knows: {unknown}"
        return [
            index
            for index, thing in enumerate(self.scene.things)
            if all(word == "thing" or word in (thing.shape, thing.color, thing.pattern) for word in words)
        ]

    def only(self, phrase):
        (index,) = self.described(phrase)
        return index

    def along(self, index, word):
        return float(np.dot(self.centers[index], WAYS[word]))

    def is_beside(self, index, relation, other):
        return self.along(index, relation) - self.along(other, relation) > self.doubt

    def share_around(self, index, stuff):
        """How much of the stuff next to a thing is of this kind."""
        around = ndimage.binary_dilation(self.scene.things[index].mask, iterations=4)
        counts = {name: int((mask & around).sum()) for name, mask in self.scene.stuff.items()}
        return counts.get(stuff, 0) / sum(counts.values())

    def resolve(self, text):
        parts = EXPRESSION.fullmatch(text)
        assert parts, f"{text!r} is not a sentence of this world"
        found = self.described(parts["phrase"])
        if parts["relation"]:
            anchor = self.only(parts["anchor"])
            found = [index for index in found if index != anchor and self.is_beside(index, parts["relation"], anchor)]
        if parts["stuff"]:
            found = [index for index in found if self.share_around(index, parts["stuff"]) > 0.5]
        if parts["extreme"] in ("largest", "smallest"):
            found = sorted(found, key=lambda index: self.areas[index], reverse=parts["extreme"] == "largest")
        elif parts["extreme"]:
            found = sorted(found, key=lambda index: -self.along(index, parts["extreme"]))
        if parts["extreme"]:
            found = found[: NUMBERS.get(parts["number"], 1)]
        if parts["rank"]:
            found = sorted(found, key=lambda index: -self.along(index, parts["side"]))[RANKS[parts["rank"]] - 1 : RANKS[parts["rank"]]]
        return parts, tuple(sorted(found))

    def answer(self, text):
        if found := re.fullmatch(f"What color is the ({ANY})\\?", text):
            return self.scene.things[self.only(found[1])].color
        if found := re.fullmatch(f"How many ({ANY}) are there\\?", text):
            return str(len(self.described(found[1])))
        if found := re.fullmatch(f"Is there a ({ANY})\\?", text):
            return "yes" if self.described(found[1]) else "no"
        found = re.fullmatch(f"Is the ({ANY}) (left of|right of|above|below) the ({ANY})\\?", text)
        return "yes" if self.is_beside(self.only(found[1]), found[2], self.only(found[3])) else "no"


def test_every_expression_means_what_a_brute_force_reader_finds(scenes, unseen_scenes):
    for scene in (*scenes, *unseen_scenes):
        for expression in expressions(scene, 8):
            parts, found = Reader(scene).resolve(expression.text)
            assert found == expression.targets, f"{scene.image_id}: {expression.text}"


def test_relations_stay_true_when_every_thing_may_be_up_to_seven_pixels_elsewhere(scenes):
    for scene in scenes:
        for expression in expressions(scene, 8):
            if " of the " in expression.text or "above" in expression.text or "below" in expression.text:
                answers = {Reader(scene, doubt).resolve(expression.text)[1] for doubt in (-7, 0, 7)}
                assert answers == {expression.targets}, f"{scene.image_id}: {expression.text}"


def test_nothing_ties_with_the_targets_of_an_extreme_or_a_rank(scenes):
    for scene in scenes:
        reader = Reader(scene)
        for expression in expressions(scene, 8):
            parts, found = reader.resolve(expression.text)
            rest = set(reader.described(parts["phrase"])) - set(found)
            word = parts["extreme"] or parts["side"]
            if not found or not word:
                continue
            if word in ("largest", "smallest"):
                larger, smaller = (found, rest) if word == "largest" else (rest, found)
                for sizes in (reader.areas, [thing.full_area for thing in scene.things]):
                    assert min(sizes[index] for index in larger) >= 1.3 * max(sizes[index] for index in smaller)
            else:
                assert min(abs(reader.along(one, word) - reader.along(other, word)) for one in found for other in rest) >= 8


def test_an_expression_says_the_number_it_means(scenes):
    for scene in scenes:
        for expression in expressions(scene, 8):
            parts, _ = Reader(scene).resolve(expression.text)
            is_plural = parts["phrase"].split()[-1] in PLURALS
            assert is_plural == (parts["many"] == "all" or parts["number"] is not None)
            assert len(expression.targets) < 2 or is_plural, expression.text
            assert len(expression.targets) != 1 or not is_plural, expression.text


def test_ordinals_and_relations_are_needed_to_find_the_target(scenes):
    for scene in scenes:
        for expression in expressions(scene, 8):
            if expression.kind in ("ordinal", "relation", "superlative") and expression.targets:
                reader = Reader(scene)
                parts, _ = reader.resolve(expression.text)
                candidates = set(reader.described(parts["phrase"]))
                candidates -= {reader.only(parts["anchor"])} if parts["anchor"] else set()
                assert len(candidates) > len(expression.targets), expression.text


def test_the_kind_of_an_expression_is_what_its_words_take(scenes):
    for scene in scenes:
        for expression in expressions(scene, 8):
            parts, _ = Reader(scene).resolve(expression.text)
            if parts["relation"] or parts["stuff"]:
                expected = "relation"
            else:
                expected = "ordinal" if parts["rank"] else "superlative" if parts["extreme"] else "attribute"
            assert expression.kind == expected


def test_every_question_has_the_answer_a_brute_force_reader_gives(scenes, unseen_scenes):
    for scene in (*scenes, *unseen_scenes):
        for question in questions(scene, 8):
            assert Reader(scene).answer(question.text) == question.answer, f"{scene.image_id}: {question.text}"
            if question.kind == "relation":
                assert {Reader(scene, doubt).answer(question.text) for doubt in (-7, 7)} == {question.answer}


def test_a_scene_says_nothing_twice_and_more_of_it_begins_the_same(scenes):
    for scene in scenes[:50]:
        for speak in (expressions, questions):
            texts = [item.text for item in speak(scene, 16)]
            assert len(set(texts)) == 16
            assert [item.text for item in speak(scene, 5)] == texts[:5]


def test_a_caption_names_all_things_from_left_to_right_and_all_stuff(scenes):
    for scene in scenes[:50]:
        things, stuff = caption(scene).split(" on ")
        order = sorted(scene.things, key=lambda thing: np.nonzero(thing.mask)[1].mean())
        assert things.split(", ") == [f"a {thing.pattern} {thing.color} {thing.shape}" for thing in order]
        assert set(stuff.split(" and ")) == set(scene.stuff)


# What the world is made of


def test_expressions_come_in_the_shares_that_are_promised(scenes):
    said = [expression for scene in scenes for expression in expressions(scene, 4)]
    kinds = Counter(expression.kind for expression in said)
    assert set(kinds) == set(EXPRESSION_KINDS)
    assert kinds["ordinal"] + kinds["relation"] >= 0.30 * len(said)
    assert min(kinds.values()) >= 0.12 * len(said)
    assert sum(not expression.targets for expression in said) >= 0.15 * len(said)
    assert sum(len(expression.targets) > 1 for expression in said) >= 0.10 * len(said)
    for kind in EXPRESSION_KINDS:  # no kind gives away that it means nothing
        assert 0.1 < sum(not expression.targets for expression in said if expression.kind == kind) / kinds[kind] < 0.5


def test_answers_cannot_be_guessed(scenes):
    asked = [question for scene in scenes for question in questions(scene, 4)]
    for kind in QUESTION_KINDS:
        answers = Counter(question.answer for question in asked if question.kind == kind)
        assert sum(answers.values()) >= 0.2 * len(asked)
        assert max(answers.values()) <= {"color": 0.25, "count": 0.45}.get(kind, 0.58) * sum(answers.values())


def test_scenes_are_as_full_and_as_hard_as_promised(scenes):
    things = [thing for scene in scenes for thing in scene.things]
    assert {len(scene.things) for scene in scenes} == set(range(3, 11))
    assert {len(scene.stuff) for scene in scenes} == {1, 2, 3}
    assert {thing.shape for thing in things} == set(SHAPES) and len(SHAPES) == 8
    assert {thing.color for thing in things} == set(COLORS) and len(COLORS) == 6
    assert {thing.pattern for thing in things} == set(PATTERNS) == {"solid", "striped", "dotted"}
    assert {name for scene in scenes for name in scene.stuff} == set(STUFF) and len(STUFF) >= 4
    assert np.mean([thing.mask.mean() < 0.02 for thing in things]) >= 0.20
    assert np.mean([thing.is_occluded for thing in things]) >= 0.25


def test_things_and_stuff_share_no_pixel_and_cover_the_picture(scenes):
    for scene in scenes[:100]:
        masks = [thing.mask for thing in scene.things] + list(scene.stuff.values())
        assert (np.sum(masks, axis=0) == 1).all()
        assert all(mask.any() for mask in masks)


def test_at_least_half_of_every_thing_shows(scenes):
    for scene in scenes:
        for thing in scene.things:
            assert 0.5 * thing.full_area <= thing.area <= thing.full_area
            assert thing.is_occluded == (thing.area < thing.full_area)


def test_the_colours_in_the_picture_are_those_of_the_truth(scenes):
    # A solid thing has one colour, a little darkened; nothing else in the picture is allowed to be painted over its mask.
    for scene in scenes[:100]:
        for thing in scene.things:
            if thing.pattern == "solid":
                ratio = scene.image[thing.mask] / np.array(COLORS[thing.color])
                assert ratio.min() > 0.85 and ratio.max() <= 1
            else:
                share = (scene.image[thing.mask] < 0.5 * np.array(COLORS[thing.color])).all(axis=1).mean()
                assert 0.1 < share < 0.7  # ink


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_has_the_area_its_size_says_and_stays_within_its_radius(shape):
    way = np.arange(-1000, 1001)
    inside = shapes_scene._INSIDE[shape](way[None, :], way[:, None], 1000)
    assert inside.sum() == pytest.approx(1000**2, rel=0.01)
    rows, columns = np.nonzero(inside)
    assert np.hypot(rows - 1000, columns - 1000).max() <= shapes_scene._SHAPE_RADIUS[shape]


# Splits


def test_splits_share_no_picture_and_no_arrangement():
    pictures, arrangements = set(), set()
    numbers = {"train": 1500, "validation": 500, "test": 500, "unseen": 500}
    for split, number in numbers.items():
        for index in range(number):
            scene = make_scene(split, index, image_size=64)
            pictures.add(hashlib.sha256(scene.image).digest())
            arrangements.add(tuple((thing.color, thing.shape, thing.pattern, thing.position) for thing in scene.things))
    assert len(pictures) == len(arrangements) == sum(numbers.values())


def test_only_the_unseen_split_shows_or_names_the_held_out_pairs(scenes, unseen_scenes):
    assert {shape for _, shape in HELD_OUT} == set(SHAPES) and {color for color, _ in HELD_OUT} == set(COLORS)
    names = {f"{color} {shape}" for color, shape in HELD_OUT}
    stream = ShapesStream("panoptic", phrase_percent=100)
    for number, scene in enumerate(scenes):
        assert not any(thing.is_held_out for thing in scene.things)
        said = [item.text for item in (*expressions(scene, 8), *questions(scene, 8))]
        said += stream.samples(number)[0].categories.values() if number < 100 else []
        assert not [text for text in said for name in names if name in text]
    for scene in unseen_scenes:
        assert any(thing.is_held_out for thing in scene.things)
    assert 0.3 < np.mean([thing.is_held_out for scene in unseen_scenes for thing in scene.things]) < 0.7


def test_validation_and_test_show_seen_pairs_only():
    for split in ("validation", "test"):
        assert not any(thing.is_held_out for index in range(100) for thing in make_scene(split, index).things)


def test_every_colour_and_every_shape_occurs_in_training_beside_its_held_out_pair(scenes):
    pairs = {(thing.color, thing.shape) for scene in scenes for thing in scene.things}
    assert pairs == {(color, shape) for color in COLORS for shape in SHAPES} - HELD_OUT


# The same everywhere


def fingerprint(split, index, seed=0):
    scene = make_scene(split, index, seed=seed)
    digest = hashlib.sha256(scene.image.tobytes())
    for thing in scene.things:
        digest.update(f"{thing.shape} {thing.color} {thing.pattern} {thing.full_area} {thing.ground} ".encode() + thing.mask.tobytes())
    for name, mask in scene.stuff.items():
        digest.update(name.encode() + mask.tobytes())
    digest.update(repr([*expressions(scene, 8), *questions(scene, 8), caption(scene)]).encode())
    return digest.hexdigest()[:16]


def test_the_world_is_the_one_that_was_recorded():
    # If this is meant to change, raise the VERSION of the builder with it: it names the files that `load` caches.
    recorded = {
        ("train", 0, 0): "fd7158d8b25cb644",
        ("train", 123456, 0): "43b280f59e3fdd16",
        ("validation", 7, 0): "c5eb0aebf12aaa49",
        ("test", 0, 3): "8d6c8a69d5380c47",
        ("unseen", 11, 0): "2ad523722dfadbc3",
    }
    assert {key: fingerprint(*key) for key in recorded} == recorded


def test_other_processes_and_another_order_make_the_same_scenes():
    jobs = [(split, index) for split in SPLITS for index in (0, 5)]
    with multiprocessing.Pool(2) as pool:
        elsewhere = pool.starmap(fingerprint, jobs[::-1], chunksize=1)
    assert elsewhere[::-1] == [fingerprint(*job) for job in jobs]


def test_another_seed_split_index_or_size_is_another_scene():
    scenes = [
        make_scene("train", 1),
        make_scene("train", 2),
        make_scene("test", 1),
        make_scene("train", 1, seed=1),
    ]
    assert len({scene.image.tobytes() for scene in scenes}) == 4
    assert len({scene.image_id for scene in scenes}) == 4


@pytest.mark.parametrize("image_size", [64, 100, 256])
def test_pictures_come_in_other_sizes(image_size):
    scene = make_scene("train", 3, image_size=image_size)
    assert scene.image.shape == (image_size, image_size, 3)
    assert all(0.003 < thing.mask.mean() < 0.08 for thing in scene.things)


# Samples


def test_a_panoptic_sample_holds_the_truth(scenes):
    for scene, sample in zip(scenes[:20], ShapesStream("panoptic"), strict=False):
        assert np.array_equal(np.asarray(sample.image), scene.image)
        assert sample.image_id == scene.image_id and sample.image_size == (128, 128)
        assert sample.categories == {category.id: category.name for category in CATEGORIES}
        named = [(sample.categories[segment.category_id], bitmap_from_rle(segment.mask_rle)) for segment in sample.segments]
        expected = [(thing.shape, thing.mask) for thing in scene.things] + list(scene.stuff.items())
        assert [name for name, _ in named] == [name for name, _ in expected]
        assert all(np.array_equal(one, other) for (_, one), (_, other) in zip(named, expected, strict=True))


def test_phrases_as_categories_describe_their_things_and_no_others(scenes):
    named = []
    for number, (scene, sample) in enumerate(zip(scenes[:200], ShapesStream("panoptic", phrase_percent=60), strict=False)):
        names = list(sample.categories.values())
        assert names[-len(STUFF) :] == list(STUFF)
        assert len(set(names)) == len(names)
        if tuple(names[: -len(STUFF)]) == SHAPES:
            continue
        named.append(number)
        described = [Reader(scene).described(name) for name in names[: -len(STUFF)]]
        assert sorted(index for group in described for index in group) == list(range(len(scene.things)))  # each by exactly one
        assert [] in described  # and some name what is not there
        assert [index in described[label] for index, label in enumerate(sample.class_labels[: len(scene.things)])] == [True] * len(
            scene.things
        )
    assert 0.5 < len(named) / 200 < 0.7


def test_a_referring_sample_holds_the_targets_of_its_expression(scenes):
    stream = ShapesStream("referring", prompts_per_image=3)
    for number, scene in enumerate(scenes[:20]):
        for expression, sample in zip(expressions(scene, 3), stream.samples(number), strict=True):
            assert sample.expressions == (expression.text,)
            masks = [bitmap_from_rle(segment.mask_rle) for segment in sample.segments]
            assert [scene.things[index].mask.tolist() for index in expression.targets] == [mask.tolist() for mask in masks]
            assert sample.tags == (expression.kind, ("no_target", "one_target", "several_targets")[min(len(masks), 2)])


def test_targets_of_held_out_pairs_are_tagged(unseen_scenes):
    stream = ShapesStream("referring", split="unseen", prompts_per_image=4)
    for number, scene in enumerate(unseen_scenes[:30]):
        for expression, sample in zip(expressions(scene, 4), stream.samples(number), strict=True):
            assert ("held_out" in sample.tags) == any(scene.things[index].is_held_out for index in expression.targets)


@pytest.mark.parametrize("kind", [*REGION_KINDS, None])
def test_an_interactive_sample_points_at_every_thing(scenes, kind):
    kinds, number = Counter(), 0
    for scene, sample in zip(scenes[:40], ShapesStream("interactive", region_kind=kind), strict=False):
        assert [region.segment for region in sample.regions] == list(range(len(sample.segments)))
        meant = [bitmap_from_rle(segment.mask_rle) for segment in sample.segments]
        masks = [thing.mask for thing in scene.things]
        assert all(any(np.array_equal(one, mask) for mask in masks) for one in meant)
        for region, mask in zip(sample.regions, meant, strict=True):
            kinds[region.kind] += 1
            if region.kind == "point":
                ((x, y),) = region.points
                assert mask[int(y), int(x)]
            if region.kind == "mask":
                assert (bitmap_from_rle(region.mask_rle) & mask).any()
        number += len(masks)
    assert set(kinds) == ({kind} if kind else set(REGION_KINDS))
    assert kinds.total() == number


def test_conversations_ask_and_answer_and_captions_only_tell(scenes):
    stream = ShapesStream("conversation", prompts_per_image=2)
    for number, scene in enumerate(scenes[:10]):
        for question, sample in zip(questions(scene, 2), stream.samples(number), strict=True):
            assert [(message["role"], message["content"]) for message in sample.conversation] == [
                ("user", question.text),
                ("assistant", question.answer),
            ]
            assert sample.tags == (question.kind,)
    (message,) = ShapesStream("caption")[0].conversation
    assert message == {"role": "assistant", "content": caption(scenes[0])}


@pytest.mark.parametrize("task", STREAM_TASKS)
def test_a_stream_is_the_same_by_index_from_its_start_and_from_any_place(task):
    stream = ShapesStream(task, split="validation", prompts_per_image=3, phrase_percent=50)
    samples = list(islice(stream, 11))
    assert samples == [stream[index] for index in range(11)]
    assert list(islice(stream.from_sample(7), 4)) == samples[7:]


def test_a_picture_is_drawn_once_for_all_its_prompts_while_tasks_take_turns(monkeypatch):
    drawn = []

    def counted(split, index, **options):
        drawn.append(index)
        return make_scene(split, index, **options)

    monkeypatch.setattr(shapes_stream, "make_scene", counted)
    streams = [ShapesStream(task, seed=4321, prompts_per_image=3) for task in ("referring", "conversation")]
    for index in range(6):
        for stream in streams:
            assert stream[index].image_id == f"shapes/train/4321/{index // 3}"
    assert drawn == [0, 0, 1, 1]


def test_samples_of_a_picture_share_it():
    samples = ShapesStream("referring", prompts_per_image=5).samples(0)
    assert len(samples) == 5 and len({id(sample.image) for sample in samples}) == 1
    assert isinstance(samples[0].image, Image.Image)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"task": "semantics"}, "shapes: unknown task 'semantics', expected one of panoptic, referring"),
        ({"split": "val"}, "shapes: unknown split 'val', expected one of train, validation, test, unseen"),
        ({"region_kind": "circle"}, "shapes: unknown region_kind 'circle', expected one of None, point"),
        ({"image_size": 32}, "shapes: image_size must be 64 to 1024, got 32"),
        ({"prompts_per_image": 0}, "shapes: prompts_per_image must be 1 to 16, got 0"),
        ({"phrase_percent": 101}, "shapes: phrase_percent must be 0 to 100, got 101"),
        ({"seed": -1}, "shapes: seed must be at least 0, got -1"),
    ],
)
def test_options_out_of_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ShapesStream(**options)


def test_scenes_refuse_what_is_out_of_range():
    for arguments, message in (
        (("val", 0), "unknown split 'val'"),
        (("train", -1), "index and seed must be at least 0, got -1 and 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make_scene(*arguments)
    with pytest.raises(ValueError, match="image_size must be 64 to 1024, got 2000"):
        make_scene("train", 0, image_size=2000)
    for speak in (expressions, questions):
        with pytest.raises(ValueError, match="1 to 16 expressions or questions, asked for 17"):
            speak(make_scene("train", 0), 17)
    with pytest.raises(IndexError, match="no sample -1"):
        ShapesStream()[-1]
