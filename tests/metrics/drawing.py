"""Masks and maps written as rows of characters, and random ones."""

import numpy as np


def mask(*rows: str) -> np.ndarray:
    """(H, W) bool: what is not "." belongs to the mask."""
    return np.array([[character != "." for character in row] for row in rows])


def ids(*rows: str) -> np.ndarray:
    """(H, W) int64: digits are segment ids or classes, "." is 0."""
    return np.array([[int(character.replace(".", "0")) for character in row] for row in rows])


def random_mask(rng: np.random.Generator) -> np.ndarray:
    """(H, W) = (9, 7) bool, now and then empty."""
    return rng.random((9, 7)) < rng.choice([0.0, 0.3, 0.7, 1.0])


def random_ids(rng: np.random.Generator, high: int, size: tuple[int, int] = (6, 8)) -> np.ndarray:
    """Blocks of 2 x 2 pixels with ids 0 .. high - 1."""
    return rng.integers(0, high, (size[0] // 2, size[1] // 2)).repeat(2, axis=0).repeat(2, axis=1)
