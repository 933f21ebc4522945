"""What is handed to pycocotools: its numbers are not tested here, but that they are about the right objects."""

import math

import numpy as np
import pytest

from psalm_hf.masks import rle_from_bitmap, uncompress_rle
from psalm_hf.metrics import MaskAP
from psalm_hf.structures import Segment

CAT, DOG = 17, 18


def square(side, left=0, size=(120, 240)):
    bitmap = np.zeros(size, dtype=bool)
    bitmap[:side, left : left + side] = True
    return bitmap


def segment(bitmap, category_id=CAT, **options):
    return Segment(rle_from_bitmap(bitmap), category_id, **options)


def test_found_objects_of_every_size_give_100():
    objects = [square(20), square(50, left=20), square(110, left=100)]
    metric = MaskAP()
    metric.update(1, objects, [CAT] * 3, [0.9, 0.8, 0.7], [segment(bitmap) for bitmap in objects])
    result = metric.compute()
    at_most_one = result.pop("AR1")
    assert at_most_one == pytest.approx(100 / 3)
    assert set(result) == {"AP", "AP50", "AP75", "AR10", "AR100", *(f"A{kind}-{size}" for kind in "PR" for size in metric.area_ranges)}
    assert list(result.values()) == pytest.approx([100] * len(result))
    assert metric.per_category() == {CAT: {"AP": pytest.approx(100), "AP50": pytest.approx(100), "AP75": pytest.approx(100)}}


def test_ap_at_the_thresholds_the_iou_reaches():
    # 48 of 60 columns: IoU 0.8, which is above 0.50, 0.55, 0.60, 0.65, 0.70, 0.75 and not above 0.85; 0.80 is just reached.
    metric = MaskAP()
    target, found = np.zeros((10, 60), bool), np.zeros((10, 60), bool)
    target[:], found[:, :48] = True, True
    metric.update(1, [found], [CAT], [0.5], [segment(target)])
    assert metric.compute()["AP"] == pytest.approx(70)


def test_a_false_prediction_counts_in_its_own_size_only():
    metric = MaskAP()
    metric.update(1, [square(50, left=100), square(20)], [CAT] * 2, [0.9, 0.5], [segment(square(20))])
    result = metric.compute()
    assert (result["AP"], result["AP-small"]) == (pytest.approx(50), pytest.approx(100))
    assert metric.per_category()[CAT]["AP"] == result["AP"]


def test_sizes_without_objects_are_undefined():
    metric = MaskAP()
    metric.update(1, [square(20)], [CAT], [0.9], [segment(square(20))])
    result = metric.compute()
    assert result["AP-small"] == pytest.approx(100)
    assert math.isnan(result["AP-medium"]) and math.isnan(result["AR-large"])


def test_without_any_object_everything_is_undefined():
    metric = MaskAP()
    metric.update(1, [square(20)], [CAT], [0.9], [])
    metric.update(2, [], [], [], [])
    assert all(math.isnan(value) for value in metric.compute().values())
    assert metric.per_category() == {}


def test_predictions_in_an_image_without_objects_are_false():
    metric = MaskAP()
    metric.update(1, [square(20)], [CAT], [0.5], [segment(square(20))])
    metric.update(2, [square(20)], [CAT], [0.9], [])
    assert metric.compute()["AP"] == pytest.approx(50)


def test_a_crowd_is_neither_missed_nor_a_false_prediction():
    metric = MaskAP()
    metric.update(
        1,
        [square(20), square(30, left=100), square(30, left=140)],
        [CAT] * 3,
        [0.5, 0.9, 0.8],
        [segment(square(20)), segment(square(110, left=90), is_crowd=True)],
    )
    assert metric.compute()["AP"] == pytest.approx(100)


def test_only_the_surest_predictions_count():
    metric = MaskAP(max_detections=(1, 2))
    found = [square(20, left=100), square(20, left=50), square(20)]
    metric.update(1, found, [CAT] * 3, [0.9, 0.8, 0.7], [segment(square(20))])
    result = metric.compute()
    assert (result["AP"], result["AR1"], result["AR2"]) == (0, 0, 0)


def test_own_area_ranges_and_areas_decide_the_bin():
    metric = MaskAP(area_ranges={"below 2 %": (0, 576), "larger": (577, math.inf)})
    metric.update(1, [square(20)], [CAT], [0.9], [segment(square(20), area=1000.5)])
    result = metric.compute()
    assert math.isnan(result["AP-below 2 %"])
    assert result["AP-larger"] == pytest.approx(100)  # a match counts by the area of the object, not of the prediction


def test_bitmaps_and_rles_are_the_same():
    results = []
    for form in (lambda bitmap: bitmap, rle_from_bitmap, lambda bitmap: uncompress_rle(rle_from_bitmap(bitmap))):
        metric = MaskAP()
        metric.update(1, [form(square(20)), form(square(50))], [CAT, DOG], [0.9, 0.8], [segment(square(21)), segment(square(52), DOG)])
        results.append((metric.compute()["AP"], metric.per_category()))
    assert results[0] == results[1] == results[2]


def test_the_object_with_annotation_id_0_is_never_found_as_in_pycocotools():
    for annotation_id, value in ((None, 100), (7, 100), (0, 0)):
        metric = MaskAP()
        metric.update(1, [square(20)], [CAT], [0.9], [segment(square(20), annotation_id=annotation_id)])
        assert metric.compute()["AP"] == pytest.approx(value)


def test_it_prints_nothing(capsys):
    metric = MaskAP()
    metric.update(1, [square(20)], [CAT], [0.9], [segment(square(20))])
    metric.compute()
    assert capsys.readouterr().out == ""


def test_equal_scores_count_in_the_order_of_image_ids_and_not_of_updates():
    """A tie between a hit in image 9 and a false prediction in image 10 (as text, "10" would come first)."""
    results = []
    for order in ((9, 10), (10, 9)):
        metric = MaskAP()
        for image_id in order:
            metric.update(image_id, [square(20)], [CAT], [0.5], [segment(square(20))] if image_id == 9 else [])
        results.append(metric.compute()["AP"])
    assert results == [pytest.approx(100)] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 1}, "image 1: was added before"),
        ({"scores": [0.5, 0.5]}, "image 2: 1 masks, 1 category ids and 2 scores"),
        ({"scores": [math.nan]}, "image 2: scores must be finite"),
        ({"targets": [Segment(rle_from_bitmap(square(20)))]}, r"image 2: targets \[0\] have no category_id"),
        ({"targets": [segment(square(20, size=(50, 60)))]}, r"image 2: masks of different sizes \[\(50, 60\), \(120, 240\)\]"),
        ({"areas": [1, 2]}, "image 2: 1 predictions but 2 areas"),
        ({"masks": [square(20) / 2]}, "image 2, mask 0: expected a mask"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_trace(change, message):
    metric = MaskAP()
    metric.update(1, [square(20)], [CAT], [0.9], [segment(square(20))])
    arguments = {"image_id": 2, "masks": [square(20)], "category_ids": [CAT], "scores": [0.9], "targets": [segment(square(20))]}
    with pytest.raises(ValueError, match=message):
        metric.update(**(arguments | change))
    assert list(metric.images) == [1]


def test_an_image_of_two_workers_and_an_id_of_two_objects_are_refused():
    first, second = MaskAP(), MaskAP()
    for metric in (first, second):
        metric.update("a", [], [], [], [segment(square(20), annotation_id=0)])
    with pytest.raises(ValueError, match="1 images are in both, such as a"):
        first += second
    first.update("b", [], [], [], [segment(square(20), annotation_id=0)])
    with pytest.raises(ValueError, match="2 targets have the annotation id 0"):
        first.compute()


def test_before_the_first_update_there_is_nothing_to_compute():
    with pytest.raises(ValueError, match="nothing to compute"):
        MaskAP().compute()


def test_ids_that_are_numbers_written_as_text_are_ordered_as_numbers():
    """The same tie, with ids as samples have them."""
    metric = MaskAP()
    for image_id in ("10", "9"):
        metric.update(image_id, [square(20)], [CAT], [0.5], [segment(square(20))] if image_id == "9" else [])
    assert metric.compute()["AP"] == pytest.approx(100)


def test_the_area_that_an_annotation_gives_decides_the_bin():
    metric = MaskAP()
    metric.update(1, [square(20)], [CAT], [0.9], [segment(square(20), area=2000.5)])
    result = metric.compute()
    assert math.isnan(result["AP-small"]) and result["AP-medium"] == pytest.approx(100)


def test_the_area_that_a_prediction_comes_with_decides_where_it_is_false():
    found, targets = [square(20, left=100), square(20)], [segment(square(20))]
    for areas, value in ((None, 50), ([400, 400], 50), ([5000, 400], 100)):
        metric = MaskAP()
        metric.update(1, found, [CAT] * 2, [0.9, 0.5], targets, areas=areas)
        assert metric.compute()["AP-small"] == pytest.approx(value)
    with pytest.raises(ValueError, match="image 2: 2 predictions but 1 areas"):
        metric.update(2, found, [CAT] * 2, [0.9, 0.5], targets, areas=[400])
