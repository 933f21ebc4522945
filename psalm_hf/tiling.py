"""Large images: where tiles lie, and how the answers about tiles and about the whole image become one.

A tile is as large as you like; with pixels as many as the model's input has, nothing is shrunken. Neighbours overlap. The whole image,
shrunken, is asked too: it alone sees what no tile holds. The rules were chosen by measurement, see docs/large_images.md.

(H, W) the size of the image, (h, w) that of a tile. Sizes are (height, width).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from .model.image_processing_psalm import Size
from .result import PsalmResult
from .structures import SENTENCE
from .windows import Window

OVERLAP = 0.25  # of the side of a tile, with each neighbour
SAME_INSTANCE = 0.5  # IoU, where two tiles look at the same pixels, from which on two instances are one
FROM_WHOLE = 0.5  # of the side of a tile: what is longer is taken from the whole image
INSIDE = 0.8  # share of an instance of a tile above which it may be a part of a large one
LEAST_SIDE = 16  # pixels of a tile
MAX_TILES = 4096
MAX_JOINED_BYTES = 8 * 2**30  # of the masks of a result, and of the votes of labels: a process that takes more than there is gets killed
_FAINTEST = 0.05  # weight of a pixel at the border of a tile; within it is 1


# Where tiles lie


def read_tiles(tiles: Any) -> int | tuple[int, int]:
    """Pixels along a tile or (rows, columns), see `tile_windows`, in numbers of Python.

    Raises:
        ValueError: neither of the two.
    """
    is_side = isinstance(tiles, int | np.integer)
    if isinstance(tiles, bool) or not (is_side or (isinstance(tiles, tuple | list) and len(tiles) == 2)):
        raise ValueError(f"tiles: expected pixels along a tile, or (rows, columns) of tiles, got {tiles!r:.80}")
    numbers = [tiles] if is_side else tiles
    if not all(isinstance(number, int | np.integer) and not isinstance(number, bool) and number >= 1 for number in numbers):
        raise ValueError(f"tiles: expected whole numbers of at least 1, got {tiles!r:.80}")
    return int(tiles) if is_side else (int(tiles[0]), int(tiles[1]))


def tile_windows(size: Size, tiles: int | tuple[int, int]) -> list[Window]:
    """Tiles of an image, from left to right and from top to bottom. Together they cover it; neighbours share at least `OVERLAP` of a side.

    Args:
        tiles: side of a square tile in pixels, or how many (rows, columns) of tiles. A side of the image that is shorter than a tile has
            one tile along it.

    Raises:
        ValueError: neither of the two; one tile would hold the whole image; tiles below 16 pixels; more than 4096 tiles.
    """
    tiles = read_tiles(tiles)
    height, width = size
    if isinstance(tiles, int):
        if tiles >= max(size):
            raise ValueError(
                f"tiles: one tile of {tiles} pixels holds the whole {width} x {height} image; leave tiles out, or give fewer pixels"
            )
        sides = min(tiles, height), min(tiles, width)
        numbers = [1 + math.ceil((length - side) / (side * (1 - OVERLAP))) for length, side in zip(size, sides, strict=True)]
    else:
        numbers = list(tiles)
        if numbers == [1, 1]:
            raise ValueError("tiles: 1 row and 1 column are the whole image; leave tiles out, or give more")
        # `number` tiles of one side, each of which shares OVERLAP with the next.
        sides = tuple(math.ceil(length / (number - (number - 1) * OVERLAP)) for length, number in zip(size, numbers, strict=True))
    if min(sides) < min(LEAST_SIDE, *size):
        raise ValueError(
            f"tiles: {tiles} makes tiles of {sides[1]} x {sides[0]} pixels; give larger or fewer ones, of at least {LEAST_SIDE} pixels"
        )
    if math.prod(numbers) > MAX_TILES:
        raise ValueError(f"tiles: {tiles} makes {math.prod(numbers)} tiles, more than {MAX_TILES}; give larger or fewer ones")
    rows, columns = (_starts(length, side, number) for length, side, number in zip(size, sides, numbers, strict=True))
    return [Window(x0, y0, x0 + sides[1], y0 + sides[0]) for y0 in rows for x0 in columns]


def _starts(length: int, side: int, number: int) -> list[int]:
    """First pixels of tiles along a side of the image, evenly spread."""
    return [0] if number == 1 else [round(index * (length - side) / (number - 1)) for index in range(number)]


def tile_weights(window: Window, size: Size) -> np.ndarray:
    """Weight of a tile at each of its pixels: 1 inside, falling to the borders that are not borders of the image.

    What is cut there is judged better by the neighbour that sees more of it.

    Returns:
        (h, w) float32 in (0, 1].
    """
    across = _ramp(window.width, window.x0 > 0, window.x1 < size[1])
    down = _ramp(window.height, window.y0 > 0, window.y1 < size[0])
    return np.minimum(down[:, None], across[None, :])


def _ramp(length: int, at_start: bool, at_end: bool) -> np.ndarray:
    position = (np.arange(length, dtype=np.float32) + 0.5) / (OVERLAP * length)
    weight = np.ones(length, dtype=np.float32)
    if at_start:
        weight = np.minimum(weight, position)
    if at_end:
        weight = np.minimum(weight, position[::-1])
    return weight.clip(_FAINTEST, 1)


# Instances


class TilePiece(NamedTuple):
    """An instance as one tile, or the whole image, sees it.

    Attributes:
        tile: number of the tile; 0 of the whole image.
        label_id, score: of its result.
        window: the box about it in the image.
        mask: (h, w) bool of that box.
    """

    tile: int
    label_id: int
    score: float
    window: Window
    mask: np.ndarray

    @property
    def area(self) -> int:
        """Pixels."""
        return int(np.count_nonzero(self.mask))

    @property
    def length(self) -> int:
        """Pixels of the longer side."""
        return max(self.mask.shape)

    @classmethod
    def of(cls, tile: int, label_id: int, score: float, mask: np.ndarray, window: Window) -> TilePiece | None:
        """The piece of a mask (h, w) of a tile at `window`; None if it has no pixel."""
        own = Window.about(mask)
        if own is None:
            return None
        box = Window(window.x0 + own.x0, window.y0 + own.y0, window.x0 + own.x1, window.y0 + own.y1)
        return cls(tile, label_id, score, box, mask[own.slices].copy())

    def inside(self, window: Window) -> np.ndarray:
        """(h, w) bool of a window: the pixels that the piece has there."""
        pixels = np.zeros((window.height, window.width), dtype=bool)
        common = self.window.common(window)
        if common is not None:
            pixels[window.of(common)] = self.mask[self.window.of(common)]
        return pixels


def pieces_of(results: Sequence[PsalmResult], windows: Sequence[Window], label_ids: Iterable[int]) -> list[TilePiece]:
    """The instances of these labels in the results of tiles."""
    chosen = set(label_ids)
    found = []
    for tile, (result, window) in enumerate(zip(results, windows, strict=True)):
        for label_id, score, mask in zip(result.label_ids.tolist(), result.scores.tolist(), result.masks, strict=True):
            piece = TilePiece.of(tile, label_id, score, mask, window) if label_id in chosen else None
            if piece is not None:
                found.append(piece)
    return found


def join_pieces(pieces: Sequence[TilePiece], windows: Sequence[Window], size: Size) -> list[TilePiece]:
    """Instances of the image: pieces of one label that agree where their tiles overlap are one.

    A pixel belongs to it if the tiles that have a piece of it and see the pixel say so by more than half of their `tile_weights`.
    A piece that touches a border of its tile inside of the image, and that no neighbour agrees with, is left out if most of it lies where a
    neighbour sees it better: that one found nothing there.
    """
    parents = list(range(len(pieces)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    by_tile: defaultdict[int, list[int]] = defaultdict(list)
    for index, piece in enumerate(pieces):
        by_tile[piece.tile].append(index)
    zones = _zones(windows)
    for (first, second), zone in zones.items():
        for a in by_tile[first]:
            for b in by_tile[second]:
                if pieces[a].label_id == pieces[b].label_id and _is_same(pieces[a], pieces[b], zone):
                    parents[root(b)] = root(a)
    groups: defaultdict[int, list[TilePiece]] = defaultdict(list)
    for index, piece in enumerate(pieces):
        groups[root(index)].append(piece)
    joined = []
    for members in groups.values():
        if len(members) > 1:
            piece = _joined(members, windows, size)
        else:
            piece = None if _is_left_to_others(members[0], windows, size) else members[0]
        if piece is not None:
            joined.append(piece)
    return joined


def _zones(windows: Sequence[Window]) -> dict[tuple[int, int], Window]:
    """Pairs of tiles -> the pixels of both."""
    zones = {}
    for first, window in enumerate(windows):
        for second in range(first + 1, len(windows)):
            common = window.common(windows[second])
            if common is not None:
                zones[first, second] = common
    return zones


def _is_same(first: TilePiece, second: TilePiece, zone: Window) -> bool:
    both = first.window.common(second.window)
    if both is None:
        return False
    common = int(np.count_nonzero(first.inside(both) & second.inside(both)))
    if not common:
        return False
    union = sum(int(np.count_nonzero(piece.inside(zone))) for piece in (first, second)) - common
    return common >= SAME_INSTANCE * union


def _is_left_to_others(piece: TilePiece, windows: Sequence[Window], size: Size) -> bool:
    """True if a border of the tile cuts it, and most of it lies where another tile counts more."""
    own, box = windows[piece.tile], piece.window
    is_cut = (box.x0 == own.x0 > 0) or (box.y0 == own.y0 > 0) or (box.x1 == own.x1 < size[1]) or (box.y1 == own.y1 < size[0])
    if not is_cut:
        return False
    better = np.zeros(piece.mask.shape, dtype=bool)
    weights = tile_weights(own, size)[own.of(box)]
    for tile, window in enumerate(windows):
        common = box.common(window) if tile != piece.tile else None
        if common is not None:
            better[box.of(common)] |= tile_weights(window, size)[window.of(common)] > weights[box.of(common)]
    return int(np.count_nonzero(better & piece.mask)) > piece.area / 2


def _joined(members: Sequence[TilePiece], windows: Sequence[Window], size: Size) -> TilePiece | None:
    """The instance that these are pieces of; None if no pixel has enough votes."""
    x0, y0 = min(piece.window.x0 for piece in members), min(piece.window.y0 for piece in members)
    box = Window(x0, y0, max(piece.window.x1 for piece in members), max(piece.window.y1 for piece in members))
    votes, seen = np.zeros((2, box.height, box.width), dtype=np.float32)
    for tile in {piece.tile for piece in members}:
        common = box.common(windows[tile])
        weights = tile_weights(windows[tile], size)[windows[tile].of(common)]
        own = np.logical_or.reduce([piece.inside(common) for piece in members if piece.tile == tile])
        votes[box.of(common)] += weights * own
        seen[box.of(common)] += weights
    best = max(members, key=lambda piece: piece.score)
    return TilePiece.of(best.tile, best.label_id, best.score, votes > seen / 2, box)


def with_whole_view(joined: Sequence[TilePiece], whole: Sequence[TilePiece], windows: Sequence[Window]) -> list[TilePiece]:
    """Instances of the tiles, and those of the whole image that are longer than half a tile, in place of what tiles saw of them.

    An instance of the tiles is a part of such a one if it lies inside and has its label; or any label, if it is longer than tiles overlap:
    it was perhaps cut in every tile, and tiles take the middle of a large thing for something else. What is smaller may lie on it.

    Args:
        whole: pieces of the whole image.
    """
    side = min(windows[0].width, windows[0].height)
    large = [piece for piece in whole if piece.length > FROM_WHOLE * side]

    def is_part(piece: TilePiece) -> bool:
        return any(
            (piece.label_id == other.label_id or piece.length > OVERLAP * side)
            and np.count_nonzero(other.inside(piece.window) & piece.mask) > INSIDE * piece.area
            for other in large
        )

    return large + [piece for piece in joined if not is_part(piece)]


# Pixels


@dataclass
class LabelVotes:
    """Labels of pixels by vote of the tiles, each with its `tile_weights`.

    Attributes:
        size: of the image.
        votes: label id -> (H, W) float32.
    """

    size: Size
    votes: dict[int, np.ndarray]

    @classmethod
    def of(cls, results: Sequence[PsalmResult], windows: Sequence[Window], size: Size, label_ids: Iterable[int]) -> LabelVotes:
        """Votes of the results of tiles; a label counts with its score where it has one.

        Raises:
            ValueError: more than `MAX_JOINED_BYTES`.
        """
        chosen = set(label_ids)
        occurring = chosen.intersection(label_id for result in results for label_id in result.label_ids.tolist())
        _check_memory(f"votes for {len(occurring)} names", 4 * len(occurring), size, "give fewer names, or parts of the image")
        found = cls(size, {})
        for result, window in zip(results, windows, strict=True):
            weights = tile_weights(window, size)
            for label_id, score, mask in zip(result.label_ids.tolist(), result.scores.tolist(), result.masks, strict=True):
                if label_id in chosen:
                    votes = found.votes.setdefault(label_id, np.zeros(size, dtype=np.float32))
                    votes[window.slices] += weights * mask * np.float32(1.0 if math.isnan(score) else score)
        return found

    def winners(self) -> np.ndarray:
        """(H, W) int64: label id with the most votes, -1 where there are none."""
        best, label = np.zeros(self.size, dtype=np.float32), np.full(self.size, -1, dtype=np.int64)
        for label_id in sorted(self.votes):
            wins = self.votes[label_id] > best
            best[wins], label[wins] = self.votes[label_id][wins], label_id
        return label


# Answers


def join_results(whole: PsalmResult, results: Sequence[PsalmResult], windows: Sequence[Window]) -> PsalmResult:
    """One result about an image from those of its tiles and that of the whole of it.

    Args:
        whole: of categories or expressions.
        results: of the tiles, the same prompt.
        windows: the tiles.

    Raises:
        ValueError: the masks, or the votes of labels, take more than `MAX_JOINED_BYTES`.
    """
    prompt, size = whole.prompt, whole.masks.shape[1:]
    frame = Window(0, 0, size[1], size[0])
    if prompt.task == "semantic":
        label = LabelVotes.of(results, windows, size, range(len(prompt.names))).winners()
        label_ids = np.unique(label[label >= 0]).tolist()
        return _with(whole, [TilePiece(0, label_id, math.nan, frame, label == label_id) for label_id in label_ids])
    if prompt.kind == SENTENCE and not prompt.instances:
        return _join_expressions(whole, results, windows)
    stuff = [prompt.names.index(name) for name in prompt.stuff] if prompt.task == "panoptic" else []
    things = [label_id for label_id in range(len(prompt.names)) if label_id not in stuff]
    joined = join_pieces(pieces_of(results, windows, things), windows, size)
    pieces = with_whole_view(joined, pieces_of([whole], [frame], things), windows)
    if prompt.task == "panoptic":
        return _with(whole, _panoptic(pieces, results, windows, size, stuff))
    found = _with(whole, sorted(pieces, key=lambda piece: -piece.score))
    return replace(found, absent=_absent(found, whole, results)) if prompt.kind == SENTENCE else found


def _panoptic(
    pieces: Sequence[TilePiece], results: Sequence[PsalmResult], windows: Sequence[Window], size: Size, stuff: Sequence[int]
) -> list[TilePiece]:
    """Segments that share no pixel: stuff where no thing is, small things upon large ones."""
    owner = np.full(size, -1, dtype=np.int32)
    for number in sorted(range(len(pieces)), key=lambda number: -pieces[number].area):
        owner[pieces[number].window.slices][pieces[number].mask] = number
    label = LabelVotes.of(results, windows, size, stuff).winners()
    label[owner >= 0] = -1
    best = {label_id: max(float(result.scores[result.label_ids == label_id].max(initial=0.0)) for result in results) for label_id in stuff}
    frame = Window(0, 0, size[1], size[0])
    segments = [TilePiece(0, label_id, best[label_id], frame, label == label_id) for label_id in sorted(stuff)]
    segments += [piece._replace(mask=owner[piece.window.slices] == number) for number, piece in enumerate(pieces)]
    return [segment for segment in segments if segment.mask.any()]


def _join_expressions(whole: PsalmResult, results: Sequence[PsalmResult], windows: Sequence[Window]) -> PsalmResult:
    """Joins what each expression means in the tiles; where it means nothing in all of them, the answer of the whole image stays."""
    size = whole.masks.shape[1:]
    frame = Window(0, 0, size[1], size[0])
    occurring = {label_id for result in (whole, *results) for label_id in result.label_ids.tolist()}
    _check_memory(f"masks of {len(occurring)} expressions", len(occurring), size, "give fewer expressions, or parts of the image")
    weights = [tile_weights(window, size) for window in windows]
    seen = np.zeros(size, dtype=np.float32)
    for window, of_tile in zip(windows, weights, strict=True):
        seen[window.slices] += of_tile
    pieces = []
    for label_id in range(len(whole.prompt.names)):
        votes = np.zeros(size, dtype=np.float32)
        score = 0.0
        for result, window, of_tile in zip(results, windows, weights, strict=True):
            for index in np.flatnonzero(result.label_ids == label_id):
                votes[window.slices] += of_tile * result.masks[index]
                score = max(score, float(result.scores[index]))
        piece = TilePiece.of(0, label_id, score, votes > seen / 2, frame)
        if piece is not None:
            pieces.append(piece)
        else:
            of_whole = np.flatnonzero(whole.label_ids == label_id)
            pieces += [TilePiece(0, label_id, float(whole.scores[index]), frame, whole.masks[index]) for index in of_whole]
    found = _with(whole, pieces)
    return replace(found, absent=_absent(found, whole, results))


def _absent(found: PsalmResult, whole: PsalmResult, results: Sequence[PsalmResult]) -> dict[str, float]:
    """Expressions of which nothing was found, with the score that came closest."""
    missing = [name for label_id, name in enumerate(found.prompt.names) if label_id not in found.label_ids]
    return {name: max(result.absent.get(name, 0.0) for result in (whole, *results)) for name in missing}


def _with(whole: PsalmResult, pieces: Sequence[TilePiece]) -> PsalmResult:
    """The result with these segments in place of its own."""
    size = whole.masks.shape[1:]
    _check_memory(f"masks of {len(pieces)} instances", len(pieces), size, "give a higher threshold, fewer names, or parts of the image")
    masks = np.zeros((len(pieces), *size), dtype=bool)
    for mask, piece in zip(masks, pieces, strict=True):
        mask[piece.window.slices] = piece.mask
    return replace(
        whole,
        masks=masks,
        scores=np.array([piece.score for piece in pieces], dtype=np.float64),
        label_ids=np.array([piece.label_id for piece in pieces], dtype=np.int64),
    )


def _check_memory(what: str, bytes_of_pixel: int, size: Size, advice: str) -> None:
    """Raises ValueError where so many bytes for each pixel of the image are more than `MAX_JOINED_BYTES`."""
    needed = bytes_of_pixel * size[0] * size[1]
    if needed > MAX_JOINED_BYTES:
        raise ValueError(
            f"tiles: {what} in {size[1]} x {size[0]} pixels take {needed / 2**30:.3g} GiB, more than the "
            f"{MAX_JOINED_BYTES / 2**30:.3g} GiB that are allowed; {advice}"
        )
