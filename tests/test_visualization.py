"""What must be visible in an overlay, tested on flat pictures where every changed pixel has a reason."""

import numpy as np
import pytest
import torch
from PIL import Image

from psalm_hf import visualization
from psalm_hf.visualization import (
    DISPLAY_SIDE,
    PALETTE,
    add_caption,
    contact_sheet,
    draw_panels,
    draw_segmentation,
    label_colors,
    mask_colors,
)

WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def disc(size, center, radius):
    y, x = np.indices(size)
    return (x - center[0]) ** 2 + (y - center[1]) ** 2 <= radius**2


def drawn(background, masks, labels, size=(700, 700), **options):
    """The picture part of an overlay, (H, W, 3) int."""
    image = Image.new("RGB", size[::-1], background)
    overlay = draw_segmentation(image, masks, labels, **options)
    return np.asarray(overlay, dtype=int)[: size[0]]


@pytest.mark.parametrize("background", [WHITE, BLACK, (128, 128, 128), PALETTE[0]])
def test_a_contour_shows_on_every_background(background):
    mask = disc((700, 700), (350, 350), 150)
    pixels = drawn(background, mask[None], ["cup"])
    luminance = pixels @ (0.2126, 0.7152, 0.0722)
    along_a_ray = luminance[350, 350 + 140 : 350 + 160]  # across the border, away from the label
    own = np.dot(background, (0.2126, 0.7152, 0.0722))
    assert np.abs(along_a_ray - own).max() > 90


def test_the_inside_is_tinted_and_the_outside_untouched():
    mask = disc((700, 700), (350, 350), 150)
    pixels = drawn((100, 100, 100), mask[None], ["cup"])
    expected = [round(100 + visualization.FILL_OPACITY * (value - 100)) for value in PALETTE[0]]
    assert np.abs(pixels[350 + 100, 350] - expected).max() <= 1
    assert (pixels[~disc((700, 700), (350, 350), 155)] == 100).all()


def test_of_two_masks_the_smaller_is_drawn_on_top():
    large, small = np.ones((700, 700), dtype=bool), disc((700, 700), (200, 200), 60)
    one = drawn(WHITE, np.stack([large, small]), ["wall", "cup"], colors={"wall": BLACK, "cup": (0, 0, 255)})
    other = drawn(WHITE, np.stack([small, large]), ["cup", "wall"], colors={"wall": BLACK, "cup": (0, 0, 255)})
    assert one[240, 200].tolist() == [77, 77, 192]  # white, 45 % black over it, 45 % blue over that
    assert (one[240, 200] == other[240, 200]).all()


def test_a_label_lies_in_the_middle_of_its_mask_in_its_own_colour():
    mask = disc((700, 700), (250, 450), 150)
    pixels = drawn(WHITE, mask[None], ["cup"])
    rows, columns = np.nonzero((pixels == PALETTE[0]).all(-1))  # only a label is opaque
    assert abs(rows.mean() - 450) < 15 and abs(columns.mean() - 250) < 15


def chips(monkeypatch):
    """Boxes of the labels that get drawn, in a list that fills up while drawing."""
    found = []
    original = visualization._find_place

    def spy(*arguments):
        place = original(*arguments)
        found.extend([place[1]] if place else [])
        return place

    monkeypatch.setattr(visualization, "_find_place", spy)
    return found


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def test_sixty_labels_do_not_cover_each_other(monkeypatch):
    found = chips(monkeypatch)
    random = np.random.default_rng(0)
    masks = np.stack([disc((480, 640), (random.integers(640), random.integers(480)), random.integers(4, 80)) for _ in range(60)])
    draw_segmentation(Image.new("RGB", (640, 480)), masks, [f"thing {index % 7}" for index in range(60)])
    assert len(found) > 50  # the legend lists those that found no place
    assert not any(overlap(a, b) for index, a in enumerate(found) for b in found[:index])
    assert all(0 <= box[0] and 0 <= box[1] and box[2] < 640 and box[3] < 480 for box in found)


def test_a_label_leaves_the_prompt_visible(monkeypatch):
    found = chips(monkeypatch)
    mask = disc((700, 700), (350, 350), 150)
    draw_segmentation(Image.new("RGB", (700, 700)), mask[None], ["point"], prompts=[{"point": (350, 350)}])
    assert not overlap(found[0], (349, 349, 351, 351))


@pytest.mark.parametrize(
    ("prompt", "spot"),
    [
        ({"point": (600, 600)}, (600, 600)),
        ({"points": [(600, 600), (100, 600)]}, (100, 600)),
        ({"box": (500, 500, 650, 650)}, (500, 575)),
        ({"scribble": [(500, 600), (650, 600)]}, (575, 600)),
    ],
)
def test_a_prompt_is_drawn_where_it_was_given(prompt, spot):
    mask = disc((700, 700), (200, 200), 50)
    pixels = drawn((100, 100, 100), mask[None], ["it"], prompts=[prompt])
    assert (pixels[spot[1], spot[0]] == PALETTE[0]).all()
    assert (pixels[690, 10] == 100).all()


def test_kinds_of_one_prompt_are_drawn_together_and_a_point_of_label_0_is_dark():
    mask = disc((700, 700), (200, 200), 50)
    joined = {"points": [(600, 600), (100, 600)], "labels": [1, 0], "box": (500, 500, 650, 650)}
    pixels = drawn((100, 100, 100), mask[None], ["it"], prompts=[joined])
    assert (pixels[600, 600] == PALETTE[0]).all() and (pixels[575, 500] == PALETTE[0]).all()
    assert (pixels[600, 100] == visualization.INK).all()


def test_a_prompt_may_be_a_bitmap():
    mask, prompt = disc((700, 700), (200, 200), 50), disc((700, 700), (550, 550), 50)
    pixels = drawn((100, 100, 100), mask[None], ["it"], prompts=[{"mask": prompt}])
    inside = pixels[530:570, 530:570].reshape(-1, 3)
    assert (inside == 255).all(-1).any() and (inside == 100).all(-1).any()


def test_small_pictures_grow_large_ones_shrink_and_thin_ones_get_a_legend_of_readable_width():
    for width, height in [(48, 32), (6000, 3000), (4000, 1), (1, 300), (700, 500)]:
        overlay = draw_segmentation(Image.new("L", (width, height)), np.ones((1, height, width), dtype=bool), ["all"], [0.5])
        long_side = min(max(max(width, height), DISPLAY_SIDE[0]), DISPLAY_SIDE[1])
        assert overlay.mode == "RGB"
        assert overlay.width == max(round(width * long_side / max(width, height)), visualization.MIN_WIDTH)
        assert overlay.height > round(height * long_side / max(width, height))


def test_a_mask_of_one_pixel_survives_the_reduction():
    image = Image.new("RGB", (6000, 300))
    plain = draw_segmentation(image, np.zeros((1, 300, 6000), dtype=bool), ["dot"])
    for column in (3000, 3001, 3002):  # one column in three is sampled
        mask = np.zeros((1, 300, 6000), dtype=bool)
        mask[0, 150, column] = True
        assert draw_segmentation(image, mask, ["dot"]) != plain


def test_an_enlarged_mask_has_smooth_borders_where_they_were_and_loses_no_pixel():
    y, x = np.indices((128, 128))
    mask = x + y < 100
    mask[110, 110] = True
    enlarged = visualization._resize_mask(mask, (640, 640))
    assert (enlarged[2::5, 2::5] == mask).all()  # at the centre of every pixel
    y, x = np.indices((640, 640))
    line = (x + y < 502)[:500, :500]  # through the middle of the stairs
    stairs = mask.repeat(5, axis=0).repeat(5, axis=1)[:500, :500]
    assert (enlarged[:500, :500] != line).sum() < (stairs != line).sum() / 2


def test_without_a_legend_there_is_the_picture_alone_and_labels_have_no_numbers(monkeypatch):
    texts = []
    original = visualization._find_place

    def spy(*arguments):
        place = original(*arguments)
        texts.append(place[0])
        return place

    monkeypatch.setattr(visualization, "_find_place", spy)
    mask = disc((700, 500), (250, 450), 150)
    assert draw_segmentation(Image.new("RGB", (500, 700)), mask[None], ["cup"], legend=False).size == (500, 700)
    assert draw_segmentation(Image.new("RGB", (500, 700)), mask[None], ["cup"]).size[1] > 700
    assert texts == ["cup", "1 cup"]


def test_panels_stand_in_rows_under_their_titles():
    colors = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0)]
    sheet = np.asarray(draw_panels([Image.new("RGB", (640, 480), color) for color in colors], ["a", "b", "c", "a cup " * 30]))
    boxes = [np.argwhere((sheet == color).all(-1)) for color in colors]
    assert all(len(box) == 640 * 480 for box in boxes)  # every panel in full
    (red, green, blue, yellow) = (box.min(axis=0) for box in boxes)
    assert red[0] == green[0] == blue[0] < yellow[0]
    assert red[1] == yellow[1] < green[1] < blue[1]
    assert yellow[0] - (red[0] + 480) > red[0] + 40  # a long title takes several lines
    title = sheet[: red[0], red[1] : red[1] + 640]
    assert (title.max(-1) < 100).any()


@pytest.mark.parametrize(("sizes", "titles"), [([], []), ([(9, 9), (9, 8)], ["a", "b"]), ([(9, 9)], [])])
def test_panels_that_do_not_fit_together_are_refused(sizes, titles):
    with pytest.raises(ValueError, match="panels: expected at least one, all of one size and with one title each"):
        draw_panels([Image.new("RGB", size) for size in sizes], titles)


def test_the_legend_grows_with_the_masks_and_wraps_long_labels():
    def height(labels):
        masks = np.ones((len(labels), 32, 640), dtype=bool)
        return draw_segmentation(Image.new("RGB", (640, 32)), masks, labels).height

    assert height(["cup"]) < height(["cup"] * 60)
    assert height(["cup"]) < height(["a cup " * 60])
    assert height(["cup"]) < height(["c" * 600])


def test_no_mask_is_a_picture_too():
    image = Image.new("RGB", (640, 480), (9, 9, 9))
    overlay = draw_segmentation(image, [], [], [], note="nothing found")
    assert overlay.height > 480 and (np.asarray(overlay)[:480] == 9).all()
    assert draw_segmentation(image, torch.zeros(0, 480, 640, dtype=torch.bool), []).width == 640


def test_arrays_tensors_and_pictures_give_the_same():
    mask = disc((640, 640), (300, 300), 100)
    image = Image.new("RGB", (640, 640), (50, 90, 130))
    expected = draw_segmentation(image, mask[None], ["cup"], [0.25])
    assert draw_segmentation(np.asarray(image), torch.from_numpy(mask)[None], ["cup"], torch.tensor([0.25])) == expected


def test_every_label_has_one_colour_and_its_masks_have_shades():
    many = [f"label {index}" for index in range(60)]
    colors = label_colors([*many, *many])
    assert list(colors) == many and len(set(colors.values())) == 60
    assert colors["label 0"] == PALETTE[0]
    shades = mask_colors(["cup", "wall", "cup", "cup"])
    assert shades[0] == PALETTE[0] and shades[1] == PALETTE[1] and len(set(shades)) == 4
    assert mask_colors(["wall"], label_colors(["cup", "wall"])) == [PALETTE[1]]  # found or not, the cup keeps its colour


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masks": np.ones((1, 5, 4), dtype=bool)}, r"masks: expected \(N, 4, 5\).*got \(1, 5, 4\)"),
        ({"masks": np.ones((4, 5), dtype=bool)}, r"masks: expected \(N, 4, 5\).*got \(4, 5\)"),
        ({"labels": []}, "labels: expected one per mask, got 0 for 1"),
        ({"scores": [0.1, 0.2]}, "scores: expected one per mask, got 2 for 1"),
        ({"prompts": [{"point": (0, 0)}] * 2}, "prompts: expected one per mask, got 2 for 1"),
        ({"colors": {"wall": BLACK}}, "no colour for cup"),
    ],
)
def test_what_does_not_fit_together_is_refused(options, message):
    arguments = {"image": Image.new("RGB", (5, 4)), "masks": np.ones((1, 4, 5), dtype=bool), "labels": ["cup"]} | options
    with pytest.raises(ValueError, match=message):
        draw_segmentation(**arguments)


def test_a_caption_stands_above_and_a_swatch_of_every_meaning_below():
    picture = Image.new("RGB", (900, 300), (1, 2, 3))
    pixels = np.asarray(add_caption(picture, "a row", {"right": (10, 20, 30), "wrong": (40, 50, 60)}))
    rows = np.flatnonzero((pixels == (1, 2, 3)).all(-1).all(1))
    assert pixels.shape[1] == 900 and len(rows) == 300
    for color in ((10, 20, 30), (40, 50, 60)):
        below, _ = np.nonzero((pixels == color).all(-1))
        assert len(below) > 50 and below.min() > rows[-1]
    assert (pixels[: rows[0]].sum(-1) < 300).any()  # letters


def test_panels_stand_in_as_many_columns_as_are_asked_for():
    panels = [Image.new("RGB", (700, 100), (index, 0, 0)) for index in (1, 2, 3, 4)]
    pixels = np.asarray(draw_panels(panels, ["a", "b", "c", "d"], columns=4))
    places = [np.argwhere((pixels == (index, 0, 0)).all(-1)).min(0) for index in (1, 2, 3, 4)]
    assert len({top for top, _ in places}) == 1
    assert [left for _, left in places] == sorted(left for _, left in places)


def test_a_sheet_has_as_many_columns_and_as_large_cells_as_are_asked_for():
    pictures = [Image.new("RGB", (400, 100), (index, 0, 0)) for index in (1, 2, 3)]
    pixels = np.asarray(contact_sheet(pictures, columns=2, cell_size=(200, 200)))
    (top, left), (same_top, right), (below, same_left) = (np.argwhere((pixels == (index, 0, 0)).all(-1)).min(0) for index in (1, 2, 3))
    assert top == same_top < below and left == same_left < right
    assert (pixels == (1, 0, 0)).all(-1).sum() == 200 * 50
