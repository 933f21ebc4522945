"""Scores of single rows, checked on paper, and what the colours of a comparison mean, on flat pictures where every pixel has a reason."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from psalm_hf.evaluation import comparisons
from psalm_hf.evaluation.comparisons import SCORES, draw_comparison, row_score, write_comparisons
from psalm_hf.masks import rle_from_bitmap
from psalm_hf.structures import Region, Sample, Segment

HEIGHT, WIDTH = 40, 100
CAT, DOG, GRASS = 10, 20, 30
NAMES = {CAT: "cat,kitty", DOG: "dog", GRASS: "grass"}
PICTURE = Image.new("RGB", (WIDTH, HEIGHT), (128, 128, 128))


def stripe(left, right):
    """RLE of columns at full height: areas are in the ratio of widths."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[:, left:right] = True
    return rle_from_bitmap(mask)


def scene(*segments, **prompt):
    """Segments are (left, right, category id, is crowd)."""
    made = tuple(Segment(stripe(left, right), *rest) for left, right, *rest in segments)
    return Sample(PICTURE, "one", (HEIGHT, WIDTH), made, **(prompt or {"categories": NAMES}))


def segments(*found):
    return {"segments": [{"category_id": id, "score": 0.9, "mask": stripe(left, right)} for left, right, id in found]}


def instances(*found):
    return {"instances": [{"category_id": id, "score": score, "mask": stripe(left, right)} for left, right, id, score in found]}


def referred(left, right, no_target=False):
    return {"mask": stripe(left, right), "score": 0.7, "no_target": no_target}


def regions(*found):
    return {"masks": [stripe(*place) for place in found], "scores": [0.5] * len(found)}


CATEGORIES = scene((0, 40, CAT), (40, 50, DOG), (60, 100, GRASS))
EXPRESSION = scene((0, 40), (60, 80), expressions=("both of them",))
POINTS = scene((0, 40), (60, 80), regions=(Region("point", ((9.0, 9.0),), segment=0), Region("point", ((70.0, 9.0),), segment=1)))


@pytest.mark.parametrize(
    ("name", "sample", "answer"),
    [
        ("panoptic", CATEGORIES, segments((0, 40, CAT), (40, 50, DOG), (60, 100, GRASS))),
        ("semantic", CATEGORIES, segments((0, 40, CAT), (40, 50, DOG), (60, 100, GRASS))),
        ("instance", CATEGORIES, instances((0, 40, CAT, 0.9), (40, 50, DOG, 0.8), (60, 100, GRASS, 0.7))),
        ("referring", scene((20, 80), expressions=("it",)), referred(20, 80)),
        ("referring", scene(expressions=("nothing",)), referred(0, 0, no_target=True)),
        ("region", POINTS, regions((0, 40), (60, 80))),
    ],
)
def test_the_truth_scores_one_and_has_no_error(name, sample, answer):
    assert row_score(sample, answer, name) == 1
    assert error_colors(sample, answer, name) <= {"background", "right", "not judged"}


def error_colors(sample, answer, name):
    """Names of the colours that the error panel has at the middle of each tenth of the picture's width."""
    return set(error_at(sample, answer, name, range(5, WIDTH, 10)))


def error_at(sample, answer, name, columns):
    panel = comparisons._error_panel(PICTURE, comparisons._layers(sample, answer, name), comparisons._judged(sample, name), (WIDTH, HEIGHT))
    pixels = np.asarray(panel)[HEIGHT // 2]
    mixed = {
        "right": 0.5 * 128 + 0.5 * np.array(comparisons.RIGHT),
        "background": np.full(3, 0.4 * 128),
        "not judged": 0.15 * 128 + 0.85 * np.array(comparisons.NOT_JUDGED),
        **{
            meaning: (1 - comparisons.ERROR_OPACITY) * 128 + comparisons.ERROR_OPACITY * np.array(color)
            for meaning, color in (("missed", comparisons.MISSED), ("false positive", comparisons.FALSE), ("wrong", comparisons.WRONG))
        },
    }
    return [next(name for name, color in mixed.items() if np.abs(pixels[column] - color).max() <= 1) for column in columns]


def test_panoptic_scores_are_shares_of_the_labelled_pixels():
    # Labelled: 0 to 50 and 60 to 100. Right: 20 of the cat and 30 of the grass.
    answer = segments((0, 20, CAT), (20, 60, DOG), (70, 100, GRASS))
    sample = scene((0, 40, CAT), (40, 50, GRASS), (60, 100, GRASS))
    assert row_score(sample, answer, "panoptic") == (20 + 30) / 90
    assert error_at(sample, answer, "panoptic", [10, 30, 45, 55, 65, 80]) == ["right", "wrong", "wrong", "not judged", "missed", "right"]


def test_crowds_count_in_semantic_answers_only():
    sample, answer = scene((0, 50, CAT), (50, 100, DOG, True)), segments((0, 50, CAT), (50, 100, CAT))
    assert row_score(sample, answer, "panoptic") == 1
    assert row_score(sample, answer, "semantic") == 0.5
    assert error_at(sample, answer, "panoptic", [75]) == ["not judged"]
    assert error_at(sample, answer, "semantic", [75]) == ["wrong"]


def test_instances_below_the_least_score_do_not_count():
    sample = scene((0, 40, CAT), (60, 80, DOG), (90, 100, CAT, True))
    answer = instances((0, 20, CAT, 0.9), (50, 80, DOG, 0.5), (0, 100, GRASS, 0.49), (90, 100, CAT, 0.9))
    assert row_score(sample, answer, "instance") == pytest.approx((20 / 40 + 20 / 30) / 2)
    columns = [10, 30, 45, 55, 70, 95]
    assert error_at(sample, answer, "instance", columns) == ["right", "missed", "background", "false positive", "right", "not judged"]


def test_a_category_that_is_not_there_scores_nothing():
    sample = scene((0, 40, CAT))
    assert row_score(sample, instances((0, 40, CAT, 0.9), (50, 60, DOG, 0.9)), "instance") == 0.5
    assert row_score(sample, instances((0, 40, DOG, 0.9)), "instance") == 0
    assert error_at(sample, instances((0, 40, DOG, 0.9)), "instance", [20]) == ["wrong"]


def test_referring_scores_are_the_iou_with_all_that_is_meant():
    assert row_score(EXPRESSION, referred(20, 70), "referring") == pytest.approx((20 + 10) / 80)
    columns = [10, 30, 50, 65, 75, 90]
    expected = ["missed", "right", "false positive", "right", "missed", "background"]
    assert error_at(EXPRESSION, referred(20, 70), "referring", columns) == expected


@pytest.mark.parametrize(("meant", "no_target", "score"), [(True, True, 0), (False, True, 1), (False, False, 0)])
def test_an_answer_that_nothing_is_meant(meant, no_target, score):
    sample = EXPRESSION if meant else scene(expressions=("nothing",))
    assert row_score(sample, referred(0, 40, no_target), "referring") == score


def test_a_mask_of_an_answer_that_nothing_is_meant_is_not_shown():
    assert error_at(EXPRESSION, referred(20, 60, no_target=True), "referring", [30, 50, 70]) == ["missed", "background", "missed"]
    assert comparisons._predicted(EXPRESSION, referred(20, 60, no_target=True), "referring") == []


def test_of_an_expression_crowds_without_a_category_are_ignored_and_others_are_meant():
    ignored = scene((0, 40), (40, 60, None, True), expressions=("it",))
    assert row_score(ignored, referred(0, 50), "referring") == 1
    meant = scene((0, 40, CAT), (40, 60, CAT, True), expressions=("them",))
    assert row_score(meant, referred(0, 40), "referring") == pytest.approx(40 / 60)


def test_region_scores_are_means_and_absent_objects_count():
    assert row_score(POINTS, regions((0, 20), (60, 80)), "region") == 0.75
    absent = replace(POINTS, regions=(POINTS.regions[0], replace(POINTS.regions[1], segment=None)))
    assert row_score(absent, regions((0, 40), (0, 0)), "region") == 1
    assert row_score(absent, regions((0, 40), (60, 80)), "region") == 0.5


def test_a_region_that_takes_the_object_of_another_is_wrong_there():
    swapped = regions((60, 80), (0, 40))
    assert row_score(POINTS, swapped, "region") == 0
    assert error_at(POINTS, swapped, "region", [20, 50, 70]) == ["wrong", "background", "wrong"]


@pytest.mark.parametrize(
    ("name", "sample", "message"),
    [
        ("text", CATEGORIES, "unknown kind of prediction 'text', expected one of panoptic"),
        ("referring", CATEGORIES, "image one: .*category prompt"),
    ],
)
def test_answers_that_do_not_fit_are_refused(name, sample, message):
    with pytest.raises(ValueError, match=message):
        row_score(sample, referred(0, 10), name)


def test_a_comparison_has_a_panel_more_for_regions(monkeypatch):
    drawn = []
    draw_panels = comparisons.draw_panels
    monkeypatch.setattr(
        comparisons, "draw_panels", lambda panels, titles, **options: drawn.append(titles) or draw_panels(panels, titles, **options)
    )
    draw_comparison(EXPRESSION, referred(0, 40, no_target=True), "referring")
    draw_comparison(POINTS, regions((0, 20), (60, 80)), "region")
    other = replace(POINTS, region_image=Image.new("RGB", (30, 90)), region_image_size=(90, 30))
    draw_comparison(other, regions((0, 20), (60, 80)), "region")
    assert drawn == [
        ["prediction: nothing is meant", "target", "error"],
        ["prompts" , "prediction", "target", "error"],
        ["prompts, on another image", "prediction", "target", "error"],
    ]  # fmt: skip


def drawn_colors(monkeypatch, sample, prediction, name):
    """Colours of the masks of the prediction and of the target, as they are drawn."""
    drawn = []
    draw = comparisons.draw_segmentation
    monkeypatch.setattr(
        comparisons, "draw_segmentation", lambda *given, **options: drawn.append(options["colors"]) or draw(*given, **options)
    )
    draw_comparison(sample, prediction, name)
    return drawn


def test_an_instance_has_one_colour_as_prediction_and_as_target(monkeypatch):
    sample = scene((0, 30, CAT), (30, 60, CAT), (60, 100, DOG), (60, 70, CAT, True))
    # The second cat comes first, one cat is found twice, and one stands where no cat is.
    answer = segments((32, 60, CAT), (62, 100, DOG), (0, 28, CAT), (0, 2, CAT), (90, 100, CAT))
    predicted, true = drawn_colors(monkeypatch, sample, answer, "panoptic")
    assert predicted[:3] == [true[1], true[2], true[0]]
    assert len(set(true)) == 4
    assert not {*predicted[3:]} & {*true} and predicted[3] != predicted[4]


def test_what_an_expression_means_has_one_colour_as_prediction_and_as_target(monkeypatch):
    predicted, true = drawn_colors(monkeypatch, scene((0, 40), expressions=("it",)), referred(20, 60), "referring")
    assert predicted == true


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", SCORES)
def test_every_colour_of_an_error_panel_has_a_name(name, seed):
    random = np.random.default_rng(seed)

    def place():
        left = int(random.integers(0, 90))
        return left, left + int(random.integers(1, 60))

    marked = [(*place(), int(random.choice(list(NAMES))), bool(random.random() < 0.3)) for _ in range(4)]
    prompt = {"referring": {"expressions": ("it",)}, "region": {"regions": tuple(replace(POINTS.regions[0], segment=n) for n in range(4))}}
    sample = scene(*marked, **prompt.get(name, {}))
    found = [(*place(), int(random.choice(list(NAMES)))) for _ in range(4)]
    answer = {
        "referring": referred(*found[0][:2]),
        "region": regions(*(each[:2] for each in found)),
        "instance": instances(*((*each, 0.9) for each in found)),
    }.get(name, segments(*found))
    layers, judged = comparisons._layers(sample, answer, name), comparisons._judged(sample, name)
    panel = np.asarray(comparisons._error_panel(PICTURE, layers, judged, (WIDTH, HEIGHT)))
    swatches = comparisons._swatches(name, layers, judged)
    assert {tuple(color) for color in panel.reshape(-1, 3).tolist()} <= set(swatches.values())
    assert len(set(swatches.values())) == len(swatches)


def test_what_is_right_is_lighter_than_where_nothing_is_on_any_photo():
    grey = np.arange(256)
    assert comparisons._tinted(grey, "right").min() > comparisons._tinted(grey, "no target, none predicted").max()


def test_the_caption_says_ids_score_and_expressions():
    sample = replace(EXPRESSION, record_id="7")
    assert comparisons._caption(sample, referred(20, 70), "referring") == "IoU 37.5 % on image one, record 7: \u201cboth of them\u201d"


def test_comparisons_of_large_pictures_are_reduced():
    size = (300, 3000)
    large = Sample(Image.new("RGB", size[::-1]), 1, size, (), categories=NAMES)
    assert draw_comparison(large, {"segments": []}, "panoptic").width == comparisons.MAX_WIDTH


class Rows(Sequence):
    """Rows that count how often each is read; the prediction of row n is n tenths right."""

    def __init__(self, tenths):
        self.tenths, self.reads = tenths, [0] * len(tenths)

    def __len__(self):
        return len(self.tenths)

    def __getitem__(self, place):
        if place >= len(self):
            raise IndexError(place)
        self.reads[place] += 1
        sample = replace(scene((0, 100), expressions=("it",)), image_id=f"folder/{place}: it")
        return place, sample, referred(0, 10 * self.tenths[place])


def test_half_of_the_pictures_are_the_worst_and_half_the_best(tmp_path):
    rows = Rows([5, 9, 1, 7, 3, 8])
    (tmp_path / "worst_09_old.png").write_bytes(b"")
    (tmp_path / "mine.png").write_bytes(b"")
    written = write_comparisons(tmp_path, rows, "referring", 5)
    names = ["worst_01_folder_2_it", "worst_02_folder_4_it", "worst_03_folder_0_it", "best_01_folder_1_it", "best_02_folder_5_it"]
    assert [path.stem for path in written] == [*names, "contact_sheet"]
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in written} | {"mine.png"}
    assert rows.reads == [2, 2, 2, 1, 2, 2]  # ranked, then drawn


def test_the_sheet_has_the_worst_at_the_left_and_the_best_at_the_right(tmp_path, monkeypatch):
    sheets = []
    monkeypatch.setattr(comparisons, "contact_sheet", lambda images, **options: sheets.append((images, options)) or images[0])
    *written, _ = write_comparisons(tmp_path, Rows([5, 9, 1]), "referring", 3)
    worst, second, best = (np.asarray(Image.open(path)) for path in written)
    ((images, options),) = sheets
    assert options["columns"] == 2
    assert [np.asarray(image).tobytes() for image in images] == [worst.tobytes(), best.tobytes(), second.tobytes()]


def test_equal_scores_go_by_index_and_no_row_is_both(tmp_path):
    written = write_comparisons(tmp_path, Rows([4, 4, 4]), "referring", 10)
    assert [path.stem for path in written[:-1]] == ["worst_01_folder_0_it", "worst_02_folder_1_it", "best_01_folder_2_it"]


def test_instances_are_compared_with_things_alone(tmp_path):
    # Of cat, dog and grass: one of three right and two of three, of cat and dog one of two, and one of three that are true or predicted.
    answers = {"cat": instances((0, 40, CAT, 0.9)), "rest": instances((40, 50, DOG, 0.9), (60, 100, GRASS, 0.9))}
    rows = [(index, replace(CATEGORIES, image_id=id), answer) for index, (id, answer) in enumerate(answers.items())]
    worst = [write_comparisons(tmp_path, rows, "instance", 1, things)[0].stem for things in (None, {CAT, DOG})]
    assert worst == ["worst_01_cat", "worst_01_rest"]


@pytest.mark.parametrize(("tenths", "number"), [([], 3), ([1], 0)])
def test_no_picture_of_no_row(tmp_path, tenths, number):
    with pytest.raises(ValueError, match="expected at least one drawing"):
        write_comparisons(tmp_path / "out", Rows(tenths), "referring", number)
    assert not (tmp_path / "out").exists()


def test_every_kind_has_words_for_its_score():
    assert all(score for score, _ in SCORES.values())
