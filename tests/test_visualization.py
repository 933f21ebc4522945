"""What must be visible in an overlay, tested on flat pictures where every changed pixel has a reason."""

import numpy as np
import pytest
import torch
from PIL import Image

from psalm_hf import chips, visualization
from psalm_hf.masks import rle_from_bitmap
from psalm_hf.model.image_processing_psalm import to_rgb
from psalm_hf.visualization import (
    DISPLAY_SIDE,
    PALETTE,
    add_caption,
    add_lines,
    contact_sheet,
    draw_panels,
    draw_segmentation,
    label_colors,
    mask_colors,
    open_image,
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


def placed(monkeypatch):
    """Boxes of the labels that get drawn, in a list that fills up while drawing."""
    found = []
    place = visualization.place_chips

    def spy(*arguments):
        chips = place(*arguments)
        found.extend(chip.box for chip in chips.values())
        return chips

    monkeypatch.setattr(visualization, "place_chips", spy)
    return found


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def test_sixty_labels_do_not_cover_each_other(monkeypatch):
    found = placed(monkeypatch)
    random = np.random.default_rng(0)
    masks = np.stack([disc((480, 640), (random.integers(640), random.integers(480)), random.integers(4, 80)) for _ in range(60)])
    draw_segmentation(Image.new("RGB", (640, 480)), masks, [f"thing {index % 7}" for index in range(60)])
    assert len(found) > 50  # the legend lists those that found no place
    assert not any(overlap(a, b) for index, a in enumerate(found) for b in found[:index])
    assert all(0 <= box[0] and 0 <= box[1] and box[2] < 640 and box[3] < 480 for box in found)


def test_a_label_leaves_the_prompt_visible(monkeypatch):
    found = placed(monkeypatch)
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
    place = visualization.place_chips

    def spy(*arguments):
        chips = place(*arguments)
        texts.extend(chip.text for chip in chips.values())
        return chips

    monkeypatch.setattr(visualization, "place_chips", spy)
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
        ({"colors": [BLACK, WHITE]}, "colors: expected one per mask, got 2 for 1"),
        ({"color_by": "score"}, "color_by: expected one of class, instance, got 'score'"),
        ({"color_by": "instance", "colors": {"cup": BLACK}}, "with 'instance' labels have no colours"),
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


def linear(colors):
    """sRGB 0..255 -> linear light 0..1."""
    values = np.asarray(colors) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """Contrast ratio of WCAG 2, 1 to 21; 3 is what it asks of lines and 4.5 of text."""
    lights = np.stack(np.broadcast_arrays(*(linear(colors) @ (0.2126, 0.7152, 0.0722) + 0.05 for colors in (one, other))))
    return lights.max(0) / lights.min(0)


def cielab(light):
    to_xyz = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])
    x, y, z = np.moveaxis(np.cbrt(np.clip(light, 0, 1) @ to_xyz.T / (0.9505, 1, 1.0888)), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


# Machado, Oliveira and Fernandes 2009, severity 1.
VISION = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}


@pytest.mark.parametrize("vision", VISION)
def test_sixteen_colours_are_told_apart_by_readers_with_any_colour_vision(vision):
    seen = cielab(linear(PALETTE[:16]) @ np.transpose(VISION[vision]))
    distances = np.linalg.norm(seen[:, None] - seen, axis=-1)[~np.eye(16, dtype=bool)]
    assert distances.min() >= 14.9


@pytest.mark.parametrize("background", ["black", "white", "grey", "noise", "its own colour"])
def test_a_line_of_every_contour_has_contrast_on_every_background(background):
    size, radius = 700, 45
    centers = [(70 + 110 * (index // 6), 70 + 110 * (index % 6)) for index in range(24)]
    masks = np.stack([disc((size, size), center[::-1], radius) for center in centers])
    plain = {"black": 0, "white": 255, "grey": 118}.get(background, 118)
    image = np.full((size, size, 3), plain, dtype=np.uint8)
    if background == "noise":
        image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    if background == "its own colour":
        for center, color in zip(centers, PALETTE, strict=True):
            image[disc((size, size), center[::-1], 55)] = color
    pixels = np.asarray(draw_segmentation(image, masks, [str(index) for index in range(24)]))
    for row, column in centers:
        angles = np.linspace(0, 2 * np.pi, 90)
        rays = np.arange(radius - 4, radius + 5)
        ys, xs = (np.rint(center + rays * turn[:, None]).astype(int) for center, turn in ((row, np.sin(angles)), (column, np.cos(angles))))
        around = image[np.rint(row + 52 * np.sin(angles)).astype(int), np.rint(column + 52 * np.cos(angles)).astype(int)]
        assert contrast(pixels[ys, xs], around[:, None]).max(axis=1).min() >= 3


def test_instances_have_colours_of_their_own_and_masks_may_be_given_one_each():
    masks = np.stack([disc((700, 700), (200, 200), 90), disc((700, 700), (500, 500), 90)])
    for options in ({"color_by": "instance"}, {"colors": PALETTE[:2]}):
        pixels = drawn(WHITE, masks, ["cup", "cup"], **options)
        assert (pixels[200, 200 - 95 : 200 + 95] == PALETTE[0]).all(-1).any()  # of the label
        assert (pixels[500, 500 - 95 : 500 + 95] == PALETTE[1]).all(-1).any()
    assert mask_colors(["cup"] * 4, color_by="instance") == list(PALETTE[:4])


def test_a_point_that_does_not_belong_is_white_with_a_dark_minus():
    mask, prompt = disc((700, 700), (200, 200), 50), {"points": [(600, 600), (100, 600)], "labels": [1, 0]}
    pixels = drawn((100, 100, 100), mask[None], ["it"], prompts=[prompt])
    assert (pixels[600, 600] == PALETTE[0]).all() and (pixels[600, 100] == visualization.INK).all()
    assert (pixels[603, 100] == 255).all() and not (pixels[590:610, 90:110] == PALETTE[0]).all(-1).any()


def test_one_prompt_may_be_of_several_kinds_and_a_mask_in_any_form():
    mask, given = disc((700, 700), (200, 200), 50), disc((700, 700), (550, 550), 50)
    prompt = {"point": (100, 600), "box": (500, 50, 650, 150)}
    pixels = [
        drawn((100,) * 3, mask[None], ["it"], prompts=[prompt | {"mask": form}]) for form in (given, rle_from_bitmap(given), given * 1)
    ]
    assert all((other == pixels[0]).all() for other in pixels)
    for spot in ((600, 100), (100, 500)):
        assert (pixels[0][spot] == PALETTE[0]).all()
    assert (pixels[0][530:570, 530:570] == 255).all(-1).any()


def random_scene(seed):
    """Masks of one drawn image, of 3 pixels up to half of it."""
    random = np.random.default_rng(seed)
    size = (480, 640)
    radii = np.exp(random.uniform(0, np.log(200), random.integers(1, 50)))
    return [disc(size, (random.integers(640), random.integers(480)), radius) for radius in radii]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("chip_height", "least"), [(20, 0.85), (40, 0.65)])
def test_labels_hide_a_quarter_of_a_mask_at_most(seed, chip_height, least):
    shapes = random_scene(seed)
    names = [(f"{index} a thing", str(index)) for index in range(len(shapes))]
    placed = chips.place_chips(shapes, names, lambda text: (10 + len(text) * chip_height // 2, chip_height), [], (640, 480), 1)
    order = sorted(range(len(shapes)), key=lambda index: -shapes[index].sum())
    owner = np.full((480, 640), -1)
    for index in order:
        owner[shapes[index]] = index
    is_hidden = np.zeros((480, 640), dtype=bool)
    for chip in placed.values():
        x0, y0, x1, y1 = chip.box
        assert 0 <= x0 and 0 <= y0 and x1 < 640 and y1 < 480
        assert not is_hidden[y0 : y1 + 1, x0 : x1 + 1].any()  # no label lies on another
        is_hidden[y0 : y1 + 1, x0 : x1 + 1] = True
    for index in range(len(shapes)):
        assert is_hidden[owner == index].sum() <= 0.25 * (owner == index).sum()
    assert len(placed) >= least * len(shapes)  # the legend lists the others


def test_the_label_of_a_small_mask_stands_beside_it_with_a_line_to_its_border():
    small = disc((700, 700), (350, 350), 8)
    ((text, (x0, y0, x1, y1), leader),) = chips.place_chips([small], [("1 cup", "1")], lambda text: (40, 30), [], (700, 700), 1).values()
    assert text == "1" and not small[y0 : y1 + 1, x0 : x1 + 1].any()
    (start_x, start_y), (x, y) = leader
    assert x0 <= start_x <= x1 and y0 <= start_y <= y1
    assert small[y, x] and 7 <= np.hypot(x - 350, y - 350) <= 8.5


def test_a_label_lies_on_what_is_visible_of_its_mask():
    wall, picture = np.ones((480, 640), dtype=bool), disc((480, 640), (240, 320), 150)
    placed = chips.place_chips([wall, picture], [("wall", "wall"), ("cup", "cup")], lambda text: (60, 30), [], (640, 480), 1)
    x0, y0, x1, y1 = placed[0].box
    assert placed[0].leader is None and not picture[y0:y1, x0:x1].any()
    x0, y0, x1, y1 = placed[1].box
    assert placed[1].leader is None and picture[y0:y1, x0:x1].all()


def test_numbers_of_sixteen_bits_look_as_they_do_to_the_model(tmp_path):
    numbers = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    Image.fromarray(numbers).save(tmp_path / "deep.png")
    opened = np.asarray(open_image(tmp_path / "deep.png"))
    assert (opened[..., 0] == np.arange(256).reshape(16, 16)).all()
    with Image.open(tmp_path / "deep.png") as image:
        assert (np.asarray(to_rgb(image)) == opened).all()
        assert draw_segmentation(image, [], []) == draw_segmentation(opened, [], [])


def test_meanings_that_do_not_fit_beside_each_other_take_another_line():
    swatches = {f"a long meaning of the colour {index}": (10 * index, 0, 200) for index in range(1, 7)}
    pixels = np.asarray(add_caption(Image.new("RGB", (500, 300), (1, 2, 3)), "a row", swatches))
    places = [np.argwhere((pixels == color).all(-1)) for color in swatches.values()]
    assert pixels.shape[1] == 500 and all(len(place) > 50 for place in places)
    assert len({place[0][0] for place in places}) > 1


def test_the_label_of_a_mask_that_a_mask_prompt_covers_is_there(monkeypatch):
    found = placed(monkeypatch)
    mask = np.ones((700, 700), dtype=bool)
    draw_segmentation(Image.new("RGB", (700, 700)), mask[None], ["it"], prompts=[{"mask": mask}])
    assert len(found) == 1


def test_text_of_a_crowded_panel_is_smaller():
    def label_height(number):
        mask = np.zeros((number, 640, 640), dtype=bool)
        mask[0, 100:600, 100:600] = True
        pixels = np.asarray(draw_segmentation(Image.new("RGB", (640, 640)), mask, ["it"] * number, legend=False))
        return np.ptp(np.nonzero((pixels == PALETTE[0]).all(-1))[0])

    assert label_height(10) == label_height(1) > label_height(20) > label_height(40) == label_height(60)


def test_text_has_contrast_on_every_label():
    for color in label_colors([str(number) for number in range(len(PALETTE) * len(visualization.SHADES))]).values():
        assert contrast(visualization._text_color(color), color) >= 4.5


def test_a_label_beside_its_mask_keeps_off_its_neighbours_where_it_can():
    small, neighbour = disc((700, 700), (350, 350), 8), disc((700, 700), (350, 280), 60)  # right above
    chip = chips.place_chips([small, neighbour], [("1", "1"), ("2", "2")], lambda text: (40, 30), [], (700, 700), 1)[0]
    x0, y0, x1, y1 = chip.box
    assert not neighbour[y0 : y1 + 1, x0 : x1 + 1].any()


def test_lines_stand_over_the_lower_end_of_an_image_of_the_same_size():
    image = Image.new("RGB", (640, 400), PALETTE[0])
    one, many = (np.asarray(add_lines(image, ["2 the moon: not found in this frame"] * number)) for number in (1, 100))
    assert one.shape == many.shape == (400, 640, 3)
    changed = [(pixels != np.array(PALETTE[0])).any(axis=(1, 2)) for pixels in (one, many)]
    assert 20 < changed[0].sum() < 60 and changed[0][-1] and not changed[0][:-60].any()
    assert 200 < changed[1].sum() <= 300  # what is looked at stays visible
