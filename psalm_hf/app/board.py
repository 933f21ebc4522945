"""The board: an image with masks and strokes as SVG, and the script that turns gestures on it into events.

Masks are paths, so that the browser shows the name and score of what the pointer is on.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from .strokes import BRUSH, Stroke

SIDE = 1280  # of the image that is sent to the browser, in pixels
MASK_SIDE = 640  # masks are drawn in steps of that fraction of the longer side
MAX_NAME = 24  # letters of a name on the board; the pointer shows all
EMPTY_BOARD = "<div class='psalm-empty'>{}</div>"

# `trigger`, `element` and `watch` are given by gradio's HTML component. Right button or Shift: the point does not belong.
SCRIPT = """
let way = null, svg = null, shape = null, excludes = false;
const place = event => {
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  return [Math.round(point.x * 10) / 10, Math.round(point.y * 10) / 10];
};
const drawn = () => {
  const brush = svg.dataset.brush === 'yes';
  if (!shape) {
    shape = document.createElementNS('http://www.w3.org/2000/svg', brush ? 'polyline' : 'rect');
    shape.setAttribute('class', 'psalm-gesture');
    if (brush) shape.setAttribute('stroke-width', svg.dataset.width);
    svg.appendChild(shape);
  }
  if (brush) { shape.setAttribute('points', way.map(point => point.join(',')).join(' ')); return; }
  const [[x0, y0], [x1, y1]] = [way[0], way[way.length - 1]];
  const sides = {x: Math.min(x0, x1), y: Math.min(y0, y1), width: Math.abs(x1 - x0), height: Math.abs(y1 - y0)};
  Object.entries(sides).forEach(([name, value]) => shape.setAttribute(name, value));
};
element.addEventListener('contextmenu', event => { if (event.target.closest('svg.psalm-board')) event.preventDefault(); });
element.addEventListener('pointerdown', event => {
  svg = event.target.closest('svg.psalm-board');
  if (!svg || svg.dataset.frozen === 'yes') { way = null; return; }
  event.preventDefault();
  svg.setPointerCapture(event.pointerId);
  excludes = event.shiftKey || event.button === 2;
  way = [place(event)];
});
element.addEventListener('pointermove', event => {
  if (!way) return;
  if (way.length < 1000) way.push(place(event)); else way[way.length - 1] = place(event);
  drawn();
});
const end = event => {
  if (!way) return;
  const points = way;
  way = null;
  if (shape) shape.remove();
  shape = null;
  if (event.type === 'pointerup') trigger('draw', {points, excludes});
};
element.addEventListener('pointerup', end);
element.addEventListener('pointercancel', end);
"""

STYLE = """
.psalm-board {width: 100%; max-height: 78vh; display: block; touch-action: none; cursor: crosshair; user-select: none; background: #8881}
.psalm-board .psalm-mask:hover path {fill-opacity: 0.75}
.psalm-board .psalm-border {filter: brightness(0.75)}
.psalm-board text {font-family: sans-serif; font-weight: 600; paint-order: stroke; stroke: #fff; fill: #111; pointer-events: none}
.psalm-gesture {fill: #fff3; stroke: #fff; vector-effect: non-scaling-stroke; pointer-events: none}
polyline.psalm-gesture {fill: none; stroke: #fffb; vector-effect: none; stroke-linecap: round; stroke-linejoin: round}
.psalm-empty {min-height: 14rem; display: flex; align-items: center; justify-content: center; text-align: center; padding: 1rem;
  border: 2px dashed #8886; border-radius: 8px; opacity: 0.8}
"""


@dataclass(frozen=True, eq=False)
class ShownMask:
    """A mask on the board: (H, W) bool, what the pointer and the label on it say, and its RGB."""

    mask: np.ndarray
    title: str
    name: str
    color: tuple[int, int, int]


def board_svg(
    image: Image.Image,
    masks: Sequence[ShownMask] = (),
    strokes: Sequence[Stroke] = (),
    *,
    opacity: float = 0.45,
    tool: str = "",
    brush_width: float | None = None,
    is_frozen: bool = False,
) -> str:
    """SVG text of an image with everything on it; its units are pixels of the image.

    Args:
        opacity: of the masks, 0 to 1.
        tool: with which gestures are drawn.
        brush_width: of the line that is shown while the brush moves; default that of a scribble.
        is_frozen: gestures do nothing.
    """
    width, height = image.size
    side = max(image.size)
    parts = [f'<image href="{data_address(image)}" width="{width}" height="{height}" preserveAspectRatio="none"/>']
    for shown in sorted(masks, key=lambda shown: -int(shown.mask.sum())):  # small ones on top
        parts.append(_mask_group(shown, opacity, image.size))
    parts += [_stroke_shape(stroke, side) for stroke in strokes]
    line = side / 100 if brush_width is None else brush_width
    return (
        f'<svg class="psalm-board" viewBox="0 0 {width} {height}" preserveAspectRatio="xMidYMid meet" role="img" '
        f'data-brush="{"yes" if tool == BRUSH or brush_width else "no"}" data-width="{line:g}" '
        f'data-frozen="{"yes" if is_frozen else "no"}">{"".join(parts)}</svg>'
    )


def empty_board(text: str) -> str:
    """HTML in the place of a board that has no image yet."""
    return EMPTY_BOARD.format(html.escape(text))


def data_address(image: Image.Image, side: int = SIDE) -> str:
    """The image as `data:` address, JPEG, made smaller if it is larger than a screen."""
    shown = image.convert("RGB")
    shown.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    shown.save(file, format="JPEG", quality=92)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def mask_path(mask: np.ndarray) -> str:
    """SVG path of a mask (H, W) bool: a rectangle for each run of pixels in a row. Large masks are drawn in coarser steps; a mask that has
    a pixel has a path."""
    return _path_of_cells(*_cells(mask))


def _cells(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """The mask in squares of some pixels, and how many pixels wide they are."""
    step = max(1, -(-max(mask.shape) // MASK_SIDE))
    height, width = (-(-length // step) * step for length in mask.shape)
    padded = np.zeros((height, width), dtype=bool)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    blocks = padded.reshape(height // step, step, width // step, step)
    filled = blocks.mean((1, 3)) >= 0.5
    return filled if filled.any() else blocks.any((1, 3)), step


def _path_of_cells(cells: np.ndarray, step: int) -> str:
    rows, starts, ends = (values.tolist() for values in _runs(cells))
    runs = zip(rows, starts, ends, strict=True)
    return "".join(f"M{x0 * step} {y * step}h{(x1 - x0) * step}v{step}h-{(x1 - x0) * step}z" for y, x0, x1 in runs)


def _runs(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, start and end (behind the last) of each run of set cells."""
    edges = np.diff(np.pad(cells, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    return rows, starts, np.nonzero(edges == -1)[1]


def _mask_group(shown: ShownMask, opacity: float, size: tuple[int, int]) -> str:
    if not shown.mask.any():
        return ""
    cells, step = _cells(shown.mask)
    border = cells & ~ndimage.binary_erosion(cells, iterations=max(1, round(max(cells.shape) / 320)))
    rows, starts, ends = _runs(cells)
    middle = rows[len(rows) // 2]
    widest = int(np.argmax(np.where(rows == middle, ends - starts, 0)))  # the run of the middle row that has the most room for the name
    name = shown.name if len(shown.name) <= MAX_NAME else f"{shown.name[: MAX_NAME - 1]}\u2026"
    letter = max(size) / 36
    room = min(size[0] / 2, 0.3 * letter * len(name))  # half of the width of the text
    x = min(max((starts[widest] + ends[widest]) / 2 * step, room), size[0] - room)
    y = min(max((middle + 0.5) * step, letter), size[1] - letter)
    color = "rgb({},{},{})".format(*shown.color)
    return (
        f'<g class="psalm-mask"><title>{html.escape(shown.title)}</title>'
        f'<path d="{_path_of_cells(cells, step)}" fill="{color}" fill-opacity="{opacity:g}"/>'
        f'<path d="{_path_of_cells(border, step)}" fill="{color}" class="psalm-border"/>'
        f'<text x="{x:g}" y="{y:g}" font-size="{letter:g}" stroke-width="{letter / 5:g}" text-anchor="middle" '
        f'dominant-baseline="central">{html.escape(name)}</text></g>'
    )


def _stroke_shape(stroke: Stroke, side: int) -> str:
    line, ink = side / 250, "#fff" if stroke.belongs else "#d00"
    outline = f'stroke="#111" stroke-width="{line / 2:g}"'
    if stroke.kind == "point":
        ((x, y),) = stroke.points
        sign = f"M{x - 1.2 * line:g} {y:g}h{2.4 * line:g}" + (f"M{x:g} {y - 1.2 * line:g}v{2.4 * line:g}" if stroke.belongs else "")
        center = f'cx="{x:g}" cy="{y:g}" r="{2.4 * line:g}"'
        cross = f'<path d="{sign}" stroke="{"#111" if stroke.belongs else "#fff"}" stroke-width="{0.7 * line:g}"/>'
        return f'<g pointer-events="none"><circle {center} fill="{ink}" {outline}/>{cross}</g>'
    if stroke.kind == "box":
        (x0, y0), (x1, y1) = stroke.points
        shape = f'<rect x="{x0:g}" y="{y0:g}" width="{x1 - x0:g}" height="{y1 - y0:g}" fill="none"'
    else:
        shape = f'<polyline points="{" ".join(f"{x:g},{y:g}" for x, y in stroke.points)}" fill="none"'
    lines = ((line * 1.6, "#111"), (line * 0.8, ink))
    drawn = "".join(f'{shape} stroke="{color}" stroke-width="{width:g}" stroke-linejoin="round"/>' for width, color in lines)
    return f'<g pointer-events="none">{drawn}</g>'
