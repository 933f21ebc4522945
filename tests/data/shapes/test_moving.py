"""Moving shapes and pairs of views: the truth is what is painted, frames depend on their number alone, and rows are those of videos."""

import hashlib
import multiprocessing

import numpy as np
import pytest

from psalm_hf.data import load
from psalm_hf.data.shapes.moving import NUM_FRAMES, Track, make_clip, single_expressions
from psalm_hf.data.shapes.scene import COLORS, HELD_OUT, UNITS, Plan
from psalm_hf.data.shapes.two_views import make_views
from psalm_hf.masks import bitmap_from_rle


@pytest.fixture(scope="module")
def clips():
    """(clip, its frames) of the first clips."""
    return [(clip, [clip.frame(number) for number in range(NUM_FRAMES)]) for clip in (make_clip("test", index) for index in range(40))]


@pytest.fixture(scope="module")
def pairs():
    return [make_views("test", index) for index in range(60)]


def painted_in(color, image, mask):
    """Share of a mask's pixels that have a colour, darkened by the grain or by ink."""
    ratio = image[mask] / np.array(COLORS[color])
    return ((abs(ratio - ratio.mean(axis=1, keepdims=True)) < 0.15) & (ratio < 1.05)).all(axis=1).mean()


# Clips


def test_a_thing_goes_straight_and_back_from_walls():
    track = Track(Plan("circle", "red", "solid", 300, 20), (900, 400), (60, -10), (0, 100), (1000, 1900), swing=1, looks_like=None)
    assert [track.at(frame) for frame in range(4)] == [(900, 400), (960, 390), (980, 380), (920, 370)]
    assert [track.drawn_at(frame).tilt for frame in range(4)] == [20, 21, 20, 19]


def test_all_objects_are_whole_and_apart_in_the_first_frame(clips):
    for clip, frames in clips:
        assert 3 <= len(clip.tracks) <= 6 and list(frames[0].masks) == list(range(1, len(clip.tracks) + 1))
        for number, track in enumerate(clip.tracks, 1):
            assert frames[0].masks[number].mean() == pytest.approx((track.plan.size / UNITS) ** 2, rel=0.12)


def test_masks_share_no_pixel_and_have_the_colours_of_their_things(clips):
    for clip, frames in clips[:10]:
        for frame in frames[::6]:
            assert np.sum(list(frame.masks.values()), axis=0).max() == 1
            for number, mask in frame.masks.items():
                assert painted_in(clip.tracks[number - 1].plan.color, frame.image, mask) > 0.95


def test_what_shows_of_a_thing_is_less_where_one_in_front_covers_it_or_the_picture_ends(clips):
    for clip, frames in clips[:10]:
        for number in range(1, len(clip.tracks) + 1):
            alone = type(clip)("alone", clip._background, clip.tracks[number - 1 : number])
            for at in (0, 9, 18):
                whole, behind = alone.frame(at).masks.get(1), frames[at].masks.get(number)
                if behind is not None:
                    in_front = np.any(
                        [mask for other, mask in frames[at].masks.items() if other > number] or [np.zeros_like(whole)], axis=0
                    )
                    hidden = whole & ~behind
                    # Slivers in front count as not there, so they may hide a few pixels more.
                    assert not (behind & ~whole).any() and (hidden & ~in_front).sum() <= 0.05 * 1100


def test_things_vanish_and_come_back_cover_each_other_and_look_alike(clips):
    objects = vanish = back = half_hidden = alike = 0
    for clip, frames in clips:
        for number, track in enumerate(clip.tracks, 1):
            shown = [number in frame.masks for frame in frames]
            areas = [frame.masks[number].sum() for frame in frames if number in frame.masks]
            objects, alike = objects + 1, alike + (track.looks_like is not None)
            vanish, back = vanish + (not all(shown)), back + (not all(shown) and shown[-1])
            half_hidden += min(areas) < areas[0] / 2
    assert 0.15 < vanish / objects < 0.45 and back > 0.8 * vanish
    assert half_hidden > 0.3 * objects and alike > 0.15 * objects


def test_look_alikes_differ_in_nothing_but_a_little_size(clips):
    found = [(track.plan, clip.tracks[track.looks_like - 1].plan) for clip, _ in clips for track in clip.tracks if track.looks_like]
    for one, other in found:
        assert (one.color, one.shape, one.pattern) == (other.color, other.shape, other.pattern)
        assert 0.9 < one.size / other.size < 1.1


def test_the_background_stands_still(clips):
    for _, frames in clips[:5]:
        nowhere = ~np.any([mask for frame in (frames[0], frames[9]) for mask in frame.masks.values()], axis=0)
        # Slivers that count as not there are painted all the same.
        assert (frames[0].image == frames[9].image).all(axis=2)[nowhere].mean() > 0.99


def clip_fingerprint(split, index, seed, frame):
    drawn = make_clip(split, index, seed=seed).frame(frame)
    digest = hashlib.sha256(drawn.image.tobytes())
    for number, mask in drawn.masks.items():
        digest.update(f"{number} ".encode() + mask.tobytes())
    return digest.hexdigest()[:16]


def view_fingerprint(split, index, seed):
    pair = make_views(split, index, seed=seed)
    digest = hashlib.sha256()
    for view in (pair.first, pair.second):
        digest.update(view.image.tobytes())
        for number, mask in view.masks.items():
            digest.update(f"{number} ".encode() + mask.tobytes())
    return digest.hexdigest()[:16]


def test_clips_and_views_are_those_that_were_recorded():
    # If this is meant to change, raise the VERSION of the builders with it: it names the files that `load` caches.
    clips = {("train", 0, 0, 0): "4f5fb9414d273c4c", ("validation", 3, 0, 17): "ec15252f7dc725ca", ("unseen", 5, 2, 23): "828ec8ddf238a469"}
    views = {("train", 0, 0): "71aff92dec701e04", ("test", 1234, 1): "5579abcdbed9459f", ("unseen", 5, 0): "e5bf0ab539202c8f"}
    assert {key: clip_fingerprint(*key) for key in clips} == clips
    assert {key: view_fingerprint(*key) for key in views} == views


def test_other_processes_and_another_order_make_the_same():
    jobs = [("test", index, 0, frame) for index in (0, 3) for frame in (1, 20)]
    with multiprocessing.Pool(2) as pool:
        elsewhere = pool.starmap(clip_fingerprint, jobs[::-1], chunksize=1)
    assert elsewhere[::-1] == [clip_fingerprint(*job) for job in jobs]


def test_another_seed_split_index_or_size_is_another_clip_and_pair():
    worlds = [("test", 0, {}), ("test", 1, {}), ("train", 0, {}), ("test", 0, {"seed": 1}), ("test", 0, {"image_size": 64})]
    for make in (make_clip, make_views):
        assert len({make(split, index, **options).name for split, index, options in worlds[:4]}) == 4
    frames = [make_clip(split, index, **options).frame(0).image for split, index, options in worlds]
    views = [make_views(split, index, **options).first.image for split, index, options in worlds]
    assert len({picture.tobytes() for picture in frames + views}) == 10
    assert frames[-1].shape == views[-1].shape == (64, 64, 3)


def test_only_the_unseen_split_has_held_out_pairs_of_colour_and_shape(clips, pairs):
    assert not any((track.plan.color, track.plan.shape) in HELD_OUT for clip, _ in clips for track in clip.tracks)
    for index in range(10):
        assert any((track.plan.color, track.plan.shape) in HELD_OUT for track in make_clip("unseen", index).tracks)


# Rows of clips


def test_rows_ask_for_the_first_frames_objects_in_the_others(clips, tmp_path):
    dataset = load("moving_shapes", "test", num_clips=3, cache_dir=tmp_path)
    assert len(dataset) == 3 * (NUM_FRAMES - 1) and dataset.categories == ()
    for row, sample in enumerate(dataset):
        clip, frames = clips[row // (NUM_FRAMES - 1)]
        number = row % (NUM_FRAMES - 1) + 1
        assert sample.image_id == f"{clip.name}/{number:05}"
        assert np.array_equal(np.asarray(sample.image), frames[number].image)
        assert np.array_equal(np.asarray(sample.region_image), frames[0].image)
        truth = {segment.annotation_id: bitmap_from_rle(segment.mask_rle) for segment in sample.segments}
        assert truth.keys() == frames[number].masks.keys()
        assert all(np.array_equal(truth[index], mask) for index, mask in frames[number].masks.items())
        for index, region in enumerate(sample.regions, 1):
            assert np.array_equal(bitmap_from_rle(region.mask_rle), frames[0].masks[index])
            meant = None if region.segment is None else sample.segments[region.segment].annotation_id
            assert meant == (index if index in truth else None)
        tags = [f"object:{index}" for index in range(1, len(clip.tracks) + 1)]
        alike = {index for one, track in enumerate(clip.tracks, 1) if track.looks_like for index in (one, track.looks_like)}
        tags += [f"look_alike:{index}" for index in sorted(alike)]
        tags += [f"vanishes:{index}" for index in frames[0].masks if not all(index in frame.masks for frame in frames)]
        assert list(sample.tags) == tags + ["last_frame"] * (number == NUM_FRAMES - 1)


def test_an_oracle_asks_only_for_what_the_frame_shows(tmp_path):
    honest = load("moving_shapes", "test", num_clips=3, cache_dir=tmp_path)
    told = load("moving_shapes", "test", num_clips=3, oracle=True, cache_dir=tmp_path)
    assert any(region.segment is None for sample in honest for region in sample.regions)
    assert all(region.segment is not None for sample in told for region in sample.regions)
    assert [sample.segments for sample in told] == [sample.segments for sample in honest if sample.segments]
    training = load("moving_shapes", "train", num_clips=1, cache_dir=tmp_path)
    assert all(region.segment is not None for sample in training for region in sample.regions)


def test_expressions_about_the_first_frame_mean_one_object_each(clips):
    objects = said = 0
    for index, (clip, frames) in enumerate(clips):
        scene = clip.scene("test", 0, index)
        assert len(scene.things) == len(clip.tracks) and np.array_equal(scene.image, frames[0].image)
        covered = np.sum([*(thing.mask for thing in scene.things), *scene.stuff.values()], axis=0)
        assert (covered == 1).all()
        found = single_expressions(scene)
        objects, said = objects + len(clip.tracks), said + len(found)
        for number, expression in found.items():
            if expression.kind == "attribute":
                fits = [
                    set(expression.text.split()) - {"the", "thing"} <= {one.plan.color, one.plan.shape, one.plan.pattern}
                    for one in clip.tracks
                ]
                assert [index for index, fit in enumerate(fits, 1) if fit] == [number]
    assert said > 0.8 * objects
    recorded = {1: "the rightmost thing", 2: "the purple thing", 3: "the blue star"}
    assert {number: each.text for number, each in single_expressions(clips[0][0].scene("test", 0, 0)).items()} == recorded


def test_rows_with_expressions_are_of_the_objects_that_have_one_and_begin_with_the_first_frame(clips, tmp_path):
    dataset = load("moving_shapes", "test", num_clips=2, expressions=True, cache_dir=tmp_path)
    assert len(dataset) == 2 * NUM_FRAMES
    for row, sample in enumerate(dataset):
        index, number = divmod(row, NUM_FRAMES)
        said = single_expressions(clips[index][0].scene("test", 0, index))
        assert sample.image_id.endswith(f"/{number:05}") and ("first_frame" in sample.tags) == (number == 0)
        assert [tag for tag in sample.tags if tag.startswith("object:")] == [f"object:{one}" for one in said]
        assert [tag for tag in sample.tags if tag.startswith("expression:")] == [
            f"expression:{one}:{each.kind}:{each.text}" for one, each in said.items()
        ]
        assert len(sample.regions) == len(said)


# Views


def test_two_views_show_the_same_things_elsewhere_and_some_in_one_alone(pairs):
    both = alone = 0
    for pair in pairs:
        shared = pair.first.masks.keys() & pair.second.masks.keys()
        both, alone = both + len(shared), alone + len(pair.first.masks.keys() ^ pair.second.masks.keys())
        assert len(shared) >= 2
        for view in (pair.first, pair.second):
            assert np.sum(list(view.masks.values()), axis=0).max() == 1
    assert 0.2 < alone / (both + alone) < 0.5


def test_a_thing_has_the_same_colour_in_both_views(pairs):
    for pair in pairs[:20]:
        for number in pair.first.masks.keys() & pair.second.masks.keys():
            brightest = [np.percentile(view.image[view.masks[number]], 90, axis=0) for view in (pair.first, pair.second)]
            assert np.allclose(*brightest, atol=25)


def test_rows_of_both_directions_ask_the_one_view_for_objects_of_the_other(pairs, tmp_path):
    for direction, query, target in (("first2second", "first", "second"), ("second2first", "second", "first")):
        dataset = load("two_view_shapes", "test", num_pairs=5, direction=direction, cache_dir=tmp_path)
        for pair, sample in zip(pairs, dataset, strict=False):
            query_view, target_view = getattr(pair, query), getattr(pair, target)
            assert (sample.image_id, sample.record_id) == (target_view.name, f"{pair.name}/{direction}")
            assert np.array_equal(np.asarray(sample.image), target_view.image)
            assert np.array_equal(np.asarray(sample.region_image), query_view.image)
            assert list(sample.tags) == [f"object:{number}" for number in query_view.masks]
            for number, region in zip(query_view.masks, sample.regions, strict=True):
                assert np.array_equal(bitmap_from_rle(region.mask_rle), query_view.masks[number])
                assert (region.segment is not None) == (number in target_view.masks)
                if region.segment is not None:
                    assert np.array_equal(bitmap_from_rle(sample.segments[region.segment].mask_rle), target_view.masks[number])


def test_views_in_training_ask_only_for_what_the_other_view_shows(tmp_path):
    for split, options in (("train", {}), ("test", {"oracle": True})):
        for sample in load("two_view_shapes", split, num_pairs=5, cache_dir=tmp_path, **options):
            assert len(sample.regions) >= 2 and all(region.segment is not None for region in sample.regions)
    honest = load("two_view_shapes", "train", num_pairs=5, oracle=False, cache_dir=tmp_path)
    assert any(region.segment is None for sample in honest for region in sample.regions)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("moving_shapes", {"num_clips": 0}, "moving_shapes: num_clips must be at least 1, got 0"),
        ("moving_shapes", {"num_frames": 2}, "moving_shapes: num_frames must be at least 3, got 2"),
        ("moving_shapes", {"image_size": 32}, "moving_shapes: image_size must be 64 to 1024, got 32"),
        ("two_view_shapes", {"num_pairs": 0}, "two_view_shapes: num_pairs must be at least 1, got 0"),
        ("two_view_shapes", {"seed": -1}, "two_view_shapes: seed must be at least 0, got -1"),
        (
            "two_view_shapes",
            {"direction": "third"},
            "two_view_shapes: unknown direction 'third', expected one of first2second, second2first",
        ),
        ("two_view_shapes", {"side": 3}, "two_view_shapes: unknown option side, expected direction, image_size, num_pairs, oracle, seed"),
    ],
)
def test_options_out_of_their_range_are_refused(name, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load(name, "test", cache_dir=tmp_path, **options)
