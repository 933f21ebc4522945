"""Overlays a person can look at: masks, their labels, the prompts that led to them, and a legend.

Each mask is a translucent fill with a double contour, light inside and dark outside, so that one of the two shows on any photo. A mask
carries a numbered label, on it where it is large enough and else beside it (`chips`), and the legend below the image lists every number
with its name and score. Small images are enlarged and large ones reduced for drawing; masks are never changed. `draw_panels` puts
several such images, without legends, under titles beside each other. `draw_sample` shows a `Sample` with all that belongs to it, and
`contact_sheet` many of them at once.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from .bounded_files import open_image_file
from .chips import Box, place_chips
from .masks import bitmap_from_rle
from .structures import Region, Sample

Color = tuple[int, int, int]  # RGB, 0..255
ColorBy = Literal["class", "instance"]

# The first seven are Okabe and Ito's colours for readers with any colour vision (jfly.uni-koeln.de/color); the others were added greedily,
# each as far as possible from all before it (CIEDE2000), also as seen with deuteranopia and protanopia (Machado et al. 2009). The least
# distance is 11.6 among the first 16, and 9.4 among all.
PALETTE: tuple[Color, ...] = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0), (204, 121, 167), (86, 180, 233), (240, 228, 66),
    (150, 15, 0), (150, 255, 210), (120, 45, 75), (135, 240, 255), (60, 0, 210), (180, 195, 135), (60, 135, 255),
    (150, 75, 75), (165, 75, 120), (120, 15, 120), (240, 165, 195), (180, 75, 45), (255, 30, 105), (165, 255, 165),
    (225, 135, 150), (120, 45, 45), (105, 30, 255),
)  # fmt: skip
# Towards white (positive) or black (negative): the first mask of a label has the label's own colour, the next ones its shades. They stay
# apart from other labels' colours: the first three shades of the first seven colours are at least 5.5 apart (CIEDE2000, as above).
SHADES = (0.0, -0.6, 0.5, -0.35, 0.75)

DISPLAY_SIDE = (640, 2048)  # the longer side of the drawn image is brought between these, in pixels
MIN_WIDTH = 360  # of the canvas: a legend needs room even under a narrow image
PANEL_SCALE = 2  # text and lines of panels are that much larger, because a sheet of them is looked at from farther away
FEW_MASKS = 10  # of a panel; for more its text shrinks, down to the size of other images
PANEL_COLUMNS = 3
CAPTION_SCALE = 0.7  # of the text about several panels, whose width is that of all of them
CELL_SIZE = (640, 1280)  # width and height within which an image stays in a contact sheet
FILL_OPACITY = 0.45
PAPER, INK = (250, 250, 250), (25, 25, 25)


def label_colors(labels: Sequence[str]) -> dict[str, Color]:
    """One colour per distinct label, in order of appearance.

    Give the whole list of categories rather than the ones that were found, and a category has the same colour in every image.
    """
    colors: dict[str, Color] = {}
    for label in labels:
        if label not in colors:
            turn, place = divmod(len(colors), len(PALETTE))
            colors[label] = _shade(PALETTE[place], SHADES[turn % len(SHADES)])
    return colors


def mask_colors(labels: Sequence[str], colors: Mapping[str, Color] | None = None, color_by: ColorBy = "class") -> list[Color]:
    """One colour per mask: the colour of its label, lighter or darker for the second, third, ... mask of the same label.

    Args:
        labels: one per mask.
        colors: label -> RGB; default `label_colors(labels)`.
        color_by: "instance" = every mask has a colour of its own, whatever its label.

    Raises:
        ValueError: an unknown `color_by`, or "instance" together with `colors`.
    """
    if color_by not in get_args(ColorBy):
        raise ValueError(f"color_by: expected one of {', '.join(get_args(ColorBy))}, got {color_by!r}")
    if color_by == "instance":
        if colors is not None:
            raise ValueError("color_by: with 'instance' labels have no colours; leave `colors` out")
        return list(label_colors([str(index) for index in range(len(labels))]).values())
    colors = label_colors(labels) if colors is None else colors
    seen: dict[str, int] = {}
    shaded = []
    for label in labels:
        turn = seen[label] = seen.get(label, -1) + 1
        shaded.append(_shade(colors[label], SHADES[turn % len(SHADES)]))
    return shaded


def draw_segmentation(
    image: Image.Image | np.ndarray,
    masks: Any,
    labels: Sequence[str],
    scores: Sequence[float] | None = None,
    *,
    colors: Mapping[str, Color] | Sequence[Color] | None = None,
    color_by: ColorBy = "class",
    prompts: Sequence[Mapping[str, Any]] = (),
    note: str | None = None,
    legend: bool = True,
) -> Image.Image:
    """Image with masks, labels, prompts and a legend.

    Args:
        image: PIL image or array; converted as the model's images are, see `to_rgb`.
        masks: (N, H, W) bool, array or tensor on the CPU; masks may overlap, smaller ones are drawn on top.
        labels: N strings. Glyphs outside of Pillow's built-in font (Latin) show as boxes.
        scores: N numbers for the legend, usually in [0, 1].
        colors: label -> RGB 0..255 for every label, or one colour per mask; default `label_colors(labels)`.
        color_by: "class" = masks of one label have shades of one colour, "instance" = every mask has a colour of its own.
        prompts: none, or one visual prompt per mask, drawn in the mask's colour: `{"point": (x, y)}`, `{"points": [(x, y), ...]}`,
            `{"box": (x0, y0, x1, y1)}`, `{"scribble": [(x, y), ...]}` in pixels of `image`, `{"mask": (H, W) or COCO RLE}`, any kind with
            a bitmap (H, W) bool, or several of these in one. `"labels"`: one per point, 0 = the point does not belong to the mask.
        note: a sentence above the legend.
        legend: False = the image alone, as a panel for `draw_panels`: labels have no numbers, text and lines are larger.

    Returns:
        RGB image: the image, its longer side between 640 and 2048 pixels, and the legend below it.

    Raises:
        ValueError: masks of another size than the image, or another number of labels, scores, prompts or colours than of masks; see
            `mask_colors`.
    """
    image = _as_rgb(image)
    masks = np.asarray(masks)
    masks = masks.reshape(0, image.height, image.width) if masks.size == 0 else masks
    if masks.ndim != 3 or masks.shape[1:] != (image.height, image.width):
        raise ValueError(
            f"masks: expected (N, {image.height}, {image.width}) for an image of {image.height} x {image.width}, got {masks.shape}; "
            f"pass target_sizes when post-processing"
        )
    per_mask = None if colors is None or isinstance(colors, Mapping) else colors
    for name, items in (("labels", labels), ("scores", scores), ("prompts", prompts or None), ("colors", per_mask)):
        if items is not None and len(items) != len(masks):
            raise ValueError(f"{name}: expected one per mask, got {len(items)} for {len(masks)} masks")
    if isinstance(colors, Mapping) and not set(labels) <= colors.keys():
        raise ValueError(f"colors: no colour for {', '.join(sorted(set(labels) - colors.keys()))}")
    shades = mask_colors(labels, colors, color_by) if per_mask is None else list(per_mask)

    side = max(image.size)
    scale = float(np.clip(side, *DISPLAY_SIDE)) / side
    shown = image.resize([max(1, round(length * scale)) for length in image.size], Image.Resampling.LANCZOS)
    shapes = [_resize_mask(mask != 0, shown.size) for mask in masks]
    style = _Style.for_side(max(shown.size), scale=1 if legend else max(1, PANEL_SCALE * min(1, math.sqrt(FEW_MASKS / max(1, len(masks))))))

    order = sorted(range(len(shapes)), key=lambda index: -int(shapes[index].sum()))  # small masks last, on top
    pixels = np.asarray(shown, dtype=np.float32).copy()  # (H', W', 3)
    for index in order:
        _blend(pixels, shapes[index], shades[index], FILL_OPACITY)
    for index in order:
        _draw_contour(pixels, shapes[index], shades[index], style.line)
    shown = Image.fromarray(pixels.round().astype(np.uint8))
    covered: list[Box] = []
    for prompt, shade in zip(prompts, shades, strict=bool(prompts)):
        covered += _draw_prompt(shown, prompt, shade, scale, style)
    names = [(f"{number} {label}", str(number)) for number, label in enumerate(labels, 1)] if legend else [(name, name) for name in labels]
    _draw_chips(shown, shapes, names, shades, covered, style)
    return _with_legend(shown, labels, scores, shades, note, style) if legend else shown


def draw_panels(panels: Sequence[Image.Image], titles: Sequence[str], *, columns: int = PANEL_COLUMNS) -> Image.Image:
    """Images of one size in rows, each under its title; a long title takes several lines.

    Args:
        columns: images in a row.

    Raises:
        ValueError: no panels, panels of different sizes, or another number of titles.
    """
    sizes = {panel.size for panel in panels}
    if len(sizes) != 1 or len(titles) != len(panels):
        raise ValueError(f"panels: expected at least one, all of one size and with one title each, got sizes {sizes}, {len(titles)} titles")
    ((width, height),) = sizes
    style = _Style.for_side(max(width, height), scale=PANEL_SCALE)
    line_height = style.text_size("")[1]
    lines = [_wrap(title, width, style) for title in titles]
    cells = []
    for index, panel in enumerate(panels):
        first = index - index % columns
        head = Image.new("RGB", (width, line_height * max(map(len, lines[first : first + columns])) + style.pad), PAPER)
        for number, line in enumerate(reversed(lines[index]), 1):  # the last line right above the panel
            ImageDraw.Draw(head).text((0, head.height - style.pad - number * line_height), line, font=style.font, fill=INK)
        cells.append(_stack(head, panel))
    return _grid(cells, columns, 4 * style.pad)


def add_caption(image: Image.Image, text: str, swatches: Mapping[str, Color]) -> Image.Image:
    """The image below a text, and above lines that say what its colours mean.

    Args:
        swatches: what a colour means -> RGB 0..255.
    """
    style = _Style.for_side(max(image.size), scale=CAPTION_SCALE)
    margin, line_height = 2 * style.pad, style.text_size("")[1]
    side, gap, rows, x = line_height - style.pad, style.pad, 0, margin
    places = []
    for meaning in swatches:
        width = side + gap + style.text_size(meaning)[0]
        if x > margin and x + width > image.width - margin:
            rows, x = rows + 1, margin
        places.append((x, rows * (line_height + gap)))
        x += width + 3 * gap
    key = Image.new("RGB", (image.width, (rows + 1) * (line_height + gap) + gap), PAPER)
    drawing = ImageDraw.Draw(key)
    for (x, y), (meaning, color) in zip(places, swatches.items(), strict=True):
        drawing.rectangle((x, y + gap // 2, x + side, y + gap // 2 + side), fill=color, outline=INK, width=style.line)
        drawing.text((x + side + gap, y), meaning, font=style.font, fill=INK)
    return _stack(_text_panel([text], image.width, style), _stack(image, key))


def add_lines(image: Image.Image, lines: Sequence[str]) -> Image.Image:
    """Image of the same size with lines of text in a strip over its lower end; what does not fit into three quarters of it is left out."""
    style = _Style.for_side(max(image.size), scale=PANEL_SCALE)
    line_height, margin = style.text_size("")[1], 2 * style.pad
    wrapped = [part for line in lines for part in _wrap(line, image.width - 2 * margin, style)]
    kept = wrapped[: max(1, (image.height * 3 // 4 - margin) // line_height)]
    if len(kept) < len(wrapped):
        kept[-1] = "\u2026"
    strip = Image.new("RGB", (image.width, line_height * len(kept) + margin), PAPER)
    for number, line in enumerate(kept):
        ImageDraw.Draw(strip).text((margin, style.pad + number * line_height), line, font=style.font, fill=INK)
    result = image.copy()
    place = (0, image.height - strip.height)
    result.paste(Image.blend(image.crop((*place, *image.size)), strip, 0.85), place)
    return result


def draw_sample(sample: Sample, *, title: str | None = None, colors: Mapping[str, Color] | None = None) -> Image.Image:
    """Draws a sample: segments with the names of their categories, expressions as a caption, regions on the image that they belong to,
    a conversation below its image.

    Args:
        title: default the ids of image and record.
        colors: name -> RGB 0..255 for the category of every segment; default by order of appearance.

    Raises:
        OSError: the image cannot be read.
        ValueError: a mask cannot be decoded.
    """
    if title is None:
        title = f"image {sample.image_id}" + (f", record {sample.record_id}" if sample.record_id not in (None, sample.image_id) else "")
    if sample.condition == "conversation":
        return _draw_conversation(sample, title)
    image = open_image(sample.image)
    if sample.condition == "region":
        return _draw_regions(sample, image, title)
    masks = [bitmap_from_rle(segment.mask_rle) for segment in sample.segments]
    if sample.condition == "category":
        names = [sample.categories[segment.category_id] for segment in sample.segments]
        colors = label_colors(names) if colors is None else dict(colors)
        colors |= {f"{name} (crowd)": color for name, color in colors.items()}
        labels = [name + " (crowd)" * segment.is_crowd for name, segment in zip(names, sample.segments, strict=True)]
        return draw_segmentation(image, masks, labels, colors=colors, note=title)
    expressions = " | ".join(f"\u201c{text}\u201d" for text in sample.expressions)
    labels = ["meant" + " (crowd)" * segment.is_crowd for segment in sample.segments]
    return draw_segmentation(image, masks, labels, note=f"{title}: {expressions}{'' if masks else ' means nothing in this image'}")


def contact_sheet(images: Sequence[Image.Image], *, columns: int | None = None, cell_size: tuple[int, int] = CELL_SIZE) -> Image.Image:
    """Images of any size in a grid, row by row, each reduced to the size of a cell where it is larger.

    Args:
        columns: images in a row; default: the grid is about as wide as high.
        cell_size: width and height in pixels.

    Raises:
        ValueError: no images.
    """
    if not images:
        raise ValueError("contact sheet: expected at least one image")
    cells = []
    for image in images:
        scale = min(1, cell_size[0] / image.width, cell_size[1] / image.height)
        size = [max(1, round(length * scale)) for length in image.size]
        cells.append(image.convert("RGB").resize(size, Image.Resampling.LANCZOS))
    columns = math.ceil(math.sqrt(len(cells))) if columns is None else columns
    return _grid(cells, columns, cell_size[0] // 40)


def _grid(cells: Sequence[Image.Image], columns: int, gap: int) -> Image.Image:
    """Cells row by row, with a gap in pixels around each."""
    width = max(cell.width for cell in cells)
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    canvas = Image.new("RGB", (columns * (width + gap) + gap, sum(heights) + len(rows) * gap + gap), PAPER)
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            canvas.paste(cell, (gap + column * (width + gap), top))
        top += height + gap
    return canvas


def open_image(image: Any) -> Image.Image:
    """RGB as stored, whatever the EXIF orientation says, as masks are; numbers of 16 bits become 8 bits as for the model."""
    if isinstance(image, Image.Image):
        return _as_rgb(image)
    with open_image_file(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
        return _as_rgb(opened)


def _as_rgb(image: Image.Image | np.ndarray) -> Image.Image:
    from .model.image_processing_psalm import to_rgb  # loads torch, which what only asks for colours does not need

    return to_rgb(image)


def _draw_regions(sample: Sample, image: Image.Image, title: str) -> Image.Image:
    """A region in the colour of the segment that it points at. If regions are drawn on another image, that image comes first, and
    the one with the segments below it."""
    nothing = np.zeros((image.height, image.width), dtype=bool)
    targets = [
        nothing if region.segment is None else bitmap_from_rle(sample.segments[region.segment].mask_rle) for region in sample.regions
    ]
    # Regions of one segment share its colour.
    names = [f"{region.kind} of {'nothing' if region.segment is None else f'object {region.segment + 1}'}" for region in sample.regions]
    prompts = [drawn_prompt(region) for region in sample.regions]
    if sample.region_image is None:
        return draw_segmentation(image, targets, names, prompts=prompts, note=title)
    drawn_on = open_image(sample.region_image)
    empty = np.zeros((drawn_on.height, drawn_on.width), dtype=bool)
    masks = [empty if region.mask_rle is None else bitmap_from_rle(region.mask_rle) for region in sample.regions]
    if all(region.mask_rle is not None for region in sample.regions):
        prompts = []  # as masks they have labels
    above = draw_segmentation(drawn_on, masks, names, prompts=prompts, note=f"{title}: the regions, on another image")
    return _stack(above, draw_segmentation(image, targets, names, note="what they point at"))


def drawn_prompt(region: Region) -> dict[str, Any]:
    """A region as `draw_segmentation` takes it."""
    if region.mask_rle is not None:
        return {region.kind: bitmap_from_rle(region.mask_rle)}
    return {region.kind + "s" * (region.kind == "point"): region.points}


def _draw_conversation(sample: Sample, title: str) -> Image.Image:
    """The text below its image, as wide; the text alone where there is none."""
    paragraphs = [title, *(f"{message['role']}: {message['content']}" for message in sample.conversation)]
    paragraphs += [f"choice {chr(ord('A') + index)}: {choice}" for index, choice in enumerate(sample.choices)]
    paragraphs += [f"answers: {' | '.join(sample.answers)}"] if sample.answers else []
    if sample.image is None:
        return _text_panel(paragraphs, DISPLAY_SIDE[0], _Style.for_side(DISPLAY_SIDE[0]))
    masks = [bitmap_from_rle(segment.mask_rle) for segment in sample.segments]
    image = draw_segmentation(open_image(sample.image), masks, [str(number) for number in range(1, len(masks) + 1)], legend=False)
    text = _text_panel(paragraphs, max(image.width, MIN_WIDTH), _Style.for_side(max(image.size)))
    return _stack(image, text)


def _text_panel(paragraphs: Sequence[str], width: int, style: _Style) -> Image.Image:
    """Paragraphs below each other; their own line breaks are kept."""
    margin, line_height = 2 * style.pad, style.text_size("")[1] + style.pad // 2
    tops, top = [], margin
    for paragraph in paragraphs:
        for line in paragraph.splitlines() or [""]:
            for part in _wrap(line, width - 2 * margin, style):
                tops.append((top, part))
                top += line_height
        top += line_height // 2
    panel = Image.new("RGB", (width, top + margin), PAPER)
    drawing = ImageDraw.Draw(panel)
    for top, line in tops:
        drawing.text((margin, top), line, font=style.font, fill=INK)
    return panel


def _stack(above: Image.Image, below: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", (max(above.width, below.width), above.height + below.height), PAPER)
    canvas.paste(above, ((canvas.width - above.width) // 2, 0))
    canvas.paste(below, ((canvas.width - below.width) // 2, above.height))
    return canvas


@dataclass(frozen=True)
class _Style:
    """Widths in display pixels, and the font; both grow with the image."""

    line: int
    pad: int
    font: ImageFont.FreeTypeFont

    @classmethod
    def for_side(cls, side: int, scale: float = 1) -> _Style:
        size = round(max(13, side / 52) * scale)
        return cls(line=max(1, round(side / 800 * scale)), pad=max(3, size // 4), font=ImageFont.load_default(size=size))

    def text_size(self, text: str) -> tuple[int, int]:
        """Width of the text and height of a line, so that lines align whatever letters they hold."""
        ascent, descent = self.font.getmetrics()
        return round(self.font.getlength(text)), ascent + descent


def _shade(color: Color, amount: float) -> Color:
    target = 255 if amount > 0 else 0
    return tuple(round(value + (target - value) * abs(amount)) for value in color)


def _text_color(background: Color) -> Color:
    """Black or white, whichever has the higher contrast (relative luminance of WCAG 2: linear light, weighted)."""
    linear = (np.asarray(background) / 255) ** 2.2
    return (0, 0, 0) if linear @ (0.2126, 0.7152, 0.0722) > 0.18 else (255, 255, 255)


def _resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes to (width, height): larger with smooth borders, smaller by nearest neighbour; a mask that would vanish keeps one pixel."""
    resized = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    scale = size[0] / mask.shape[1]
    if scale > 1:  # a pixel that stands alone has 0.47 at its centre, and stays
        resized = ndimage.gaussian_filter(resized.astype(np.float32), 0.5 * scale, mode="nearest") > 0.45
    if mask.any() and not resized.any():
        row, column = np.argwhere(mask)[0]
        resized = resized.copy()
        resized[row * size[1] // mask.shape[0], column * size[0] // mask.shape[1]] = True
    return resized


def _blend(pixels: np.ndarray, where: np.ndarray, color: Color, opacity: float) -> None:
    pixels[where] += opacity * (np.asarray(color, dtype=np.float32) - pixels[where])


def _draw_contour(pixels: np.ndarray, mask: np.ndarray, color: Color, width: int) -> None:
    """Light line inside of the border, dark line outside; none where the mask meets the edge of the image."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return
    margin = width + 1
    window = np.s_[max(rows[0] - margin, 0) : rows[-1] + margin + 1, max(columns[0] - margin, 0) : columns[-1] + margin + 1]
    part, square = mask[window], np.ones((3, 3), dtype=bool)
    inner = part & ~ndimage.binary_erosion(part, square, iterations=width, border_value=1)
    outer = ndimage.binary_dilation(part, square, iterations=width) & ~part
    _blend(pixels[window], outer, _shade(color, -0.85), 0.9)
    _blend(pixels[window], inner, _shade(color, 0.7), 1.0)


def _draw_prompt(image: Image.Image, prompt: Mapping[str, Any], color: Color, scale: float, style: _Style) -> list[Box]:
    """A prompt as it was given, in three strokes, dark, white and coloured, that keep it apart from the contours of masks.

    Returns the boxes that a label should not cover; a bitmap has none, because its stripes still show beside a label.
    """
    kinds = {kind: bitmap_from_rle(value) if isinstance(value, Mapping) else np.asarray(value) for kind, value in prompt.items()}
    belongs, covered = kinds.pop("labels", None), []
    for kind, value in sorted(kinds.items(), key=lambda item: _PROMPT_ORDER.index(item[0])):
        if kind == "mask" or value.dtype == bool:
            _draw_prompt_bitmap(image, value != 0, color, style)
            continue
        points = [(x * scale, y * scale) for x, y in value.reshape(-1, 2).tolist()]
        if kind in ("point", "points"):
            covered += _draw_points(image, points, [True] * len(points) if belongs is None else belongs.ravel().tolist(), color, style)
        else:
            covered += _draw_line(image, points, kind == "box", color, style)
    return covered


_PROMPT_ORDER = ("mask", "box", "scribble", "point", "points")  # points on top, because they are small


def _draw_points(
    image: Image.Image, points: Sequence[tuple[float, float]], belongs: Sequence[int], color: Color, style: _Style
) -> list[Box]:
    """Coloured discs; one that does not belong is white with a dark minus."""
    drawing = ImageDraw.Draw(image)
    for (x, y), is_positive in zip(points, belongs, strict=True):
        for radius, fill in zip((8, 6.5, 4.5), (INK, (255, 255, 255), color if is_positive else (255, 255, 255)), strict=True):
            drawing.circle((x, y), radius * style.line, fill=fill)
        if not is_positive:
            drawing.rectangle((x - 4 * style.line, y - style.line, x + 4 * style.line, y + style.line), fill=INK)
    return [_box_around([point], 8 * style.line) for point in points]


def _draw_line(image: Image.Image, points: Sequence[tuple[float, float]], is_box: bool, color: Color, style: _Style) -> list[Box]:
    """A box by its corners, or a scribble."""
    corners, drawing = points, ImageDraw.Draw(image)
    if is_box:
        (x0, y0), (x1, y1) = points
        corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0), (x1, y0)]  # beyond the start, so that its corner is joined too
    for width, fill in zip((7, 5, 2), (INK, (255, 255, 255), color), strict=True):
        drawing.line(corners, fill=fill, width=width * style.line, joint="curve")
    return [] if is_box else [_box_around(ends, 4 * style.line) for ends in pairwise(points)]


def _box_around(points: Sequence[tuple[float, float]], margin: int) -> Box:
    xs, ys = zip(*points, strict=True)
    return round(min(xs)) - margin, round(min(ys)) - margin, round(max(xs)) + margin, round(max(ys)) + margin


def _draw_prompt_bitmap(image: Image.Image, bitmap: np.ndarray, color: Color, style: _Style) -> None:
    """Diagonal stripes, white and dark, over the prompt's pixels."""
    where = _resize_mask(bitmap, image.size)
    pixels = np.asarray(image, dtype=np.float32).copy()
    y, x = np.indices(where.shape)
    phase = (x + y) // (2 * style.line) % 9
    _blend(pixels, where & (phase == 0), (255, 255, 255), 1.0)
    _blend(pixels, where & (phase == 1), INK, 1.0)
    _draw_contour(pixels, where, color, 2 * style.line)
    image.paste(Image.fromarray(pixels.round().astype(np.uint8)))


def _draw_chips(
    image: Image.Image,
    shapes: Sequence[np.ndarray],
    names: Sequence[tuple[str, str]],
    shades: Sequence[Color],
    covered: Sequence[Box],
    style: _Style,
) -> None:
    """A label for every mask, see `place_chips`: dark and white around its colour. What finds no free place is left to the legend."""

    def chip_size(text: str) -> tuple[int, int]:
        width, height = style.text_size(text)
        return width + 2 * (style.pad + style.line), height + 2 * (style.pad // 2 + style.line)

    drawing = ImageDraw.Draw(image)
    shortened = [(_shorten(long, 28), _shorten(short, 28)) for long, short in names]
    chips = place_chips(shapes, shortened, chip_size, covered, image.size, style.line)
    for index, chip in chips.items():
        if chip.leader is not None:
            drawing.line(chip.leader, fill=INK, width=3 * style.line)
            drawing.line(chip.leader, fill=_shade(shades[index], 0.7), width=style.line)
    for index, (text, (x0, y0, x1, y1), _) in chips.items():
        for inset, fill in enumerate((INK, (255, 255, 255), shades[index])):
            inset *= style.line
            drawing.rounded_rectangle((x0 + inset, y0 + inset, x1 - inset, y1 - inset), max(style.pad - inset, 0), fill=fill)
        corner = (x0 + style.pad + style.line, y0 + style.pad // 2 + style.line)
        drawing.text(corner, text, font=style.font, fill=_text_color(shades[index]))


def _shorten(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "\u2026"


def _with_legend(
    image: Image.Image, labels: Sequence[str], scores: Sequence[float] | None, shades: Sequence[Color], note: str | None, style: _Style
) -> Image.Image:
    """The image above a panel that lists swatch, number, label and score of every mask in as many columns as fit."""
    width, margin = max(image.width, MIN_WIDTH), 2 * style.pad
    line_height = style.text_size("")[1] + style.pad // 2
    swatch = line_height - style.pad  # a square in a line, with the same gap to the text as between lines
    tails = [f"  {score:.2f}" for score in scores] if scores is not None else [""] * len(labels)
    texts = [f"{number} {label}{tail}" for number, (label, tail) in enumerate(zip(labels, tails, strict=True), 1)]
    available = width - 2 * margin
    indent = swatch + 2 * style.pad
    widest = max((style.text_size(text)[0] for text in texts), default=0) + indent + 2 * style.pad
    columns = max(1, min(len(texts), available // min(widest, available)))
    column_width = available // columns
    notes = _wrap(note, available, style) if note else []
    entries = [_wrap(text, column_width - indent, style) for text in texts] or [["no segments"]]
    per_column = -(-len(entries) // columns)
    stacks = [entries[start : start + per_column] for start in range(0, len(entries), per_column)]
    height = margin * 2 + line_height * (len(notes) + max(sum(map(len, stack)) for stack in stacks)) + (style.pad if notes else 0)

    panel = Image.new("RGB", (width, height), PAPER)
    drawing = ImageDraw.Draw(panel)
    top = margin
    for line in notes:
        drawing.text((margin, top), line, font=style.font, fill=INK)
        top += line_height
    top += style.pad if notes else 0
    colors = iter(shades)
    for column, stack in enumerate(stacks):
        x, y = margin + column * column_width, top
        for lines in stack:
            if shades:
                box = (x, y + style.pad // 2, x + swatch, y + style.pad // 2 + swatch)
                drawing.rectangle(box, fill=next(colors), outline=INK, width=style.line)
            for line in lines:
                drawing.text((x + (indent - style.pad if shades else 0), y), line, font=style.font, fill=INK)
                y += line_height
    return _stack(image, panel)


def _wrap(text: str, width: int, style: _Style) -> list[str]:
    """Lines of at most `width` pixels, broken between words, or inside of a word that is longer than a line."""
    lines = [""]
    for word in text.split():
        if lines[-1] and style.text_size(f"{lines[-1]} {word}")[0] > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
        while style.text_size(lines[-1])[0] > width and len(lines[-1]) > 1:
            cut = next(cut for cut in range(len(lines[-1]) - 1, 0, -1) if cut == 1 or style.text_size(lines[-1][:cut])[0] <= width)
            lines[-1:] = [lines[-1][:cut], lines[-1][cut:]]
    return lines
