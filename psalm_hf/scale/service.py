"""Requests of several clients answered together. Plain Python: no Ray and no web server."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from ..predictor import PsalmPredictor
from ..result import PsalmResult
from .request import AskedPrompt, RefusedRequest

logger = logging.getLogger(__name__)

MAX_ROWS = 64  # of one pass of the model, unless a single request has more


def answer_together(predictor: PsalmPredictor, asked: Sequence[AskedPrompt]) -> list[PsalmResult | RefusedRequest]:
    """Results of requests, as few passes of the model as there can be: requests that show the same image are asked together, and it is
    encoded once; each further task of categories, and each question, is a pass of its own.

    A request that is refused, or on which the model fails, is refused alone: the others are answered as if it was not there.

    Returns:
        One for each request, in their order. A failure that is not the request's has the status 500; the log has its traceback.
    """
    found: dict[int, PsalmResult | RefusedRequest] = {}
    for indices in _passes(asked):
        found |= zip(indices, _answer(predictor, [asked[index] for index in indices]), strict=True)
    return [found[index] for index in range(len(asked))]


def _passes(asked: Sequence[AskedPrompt]) -> Iterator[list[int]]:
    """Indices of the requests of each pass."""
    together: list[int] = []
    rows = 0
    for index, one in enumerate(asked):
        if one.is_question:
            yield [index]
            continue
        if together and rows + one.num_rows > MAX_ROWS:
            yield together
            together, rows = [], 0
        together.append(index)
        rows += one.num_rows
    if together:
        yield together


def _answer(predictor: PsalmPredictor, asked: Sequence[AskedPrompt]) -> list[PsalmResult | RefusedRequest]:
    """Results of one pass; if it fails, of each of its halves, until the request that fails is alone."""
    try:
        results = predictor.predict_batch([(one.image, [one.prompt]) for one in asked])
    except Exception as error:  # its kind decides below, when the request is alone
        if len(asked) > 1:
            middle = len(asked) // 2
            return _answer(predictor, asked[:middle]) + _answer(predictor, asked[middle:])
        if isinstance(error, ValueError):
            return [RefusedRequest(422, ("", str(error).removeprefix("image 0, ")))]  # it has one image, and calls it none
        logger.exception("a request could not be answered")
        return [RefusedRequest(500, ("", f"the model failed ({type(error).__name__}); the log of the service says more"))]
    return [result for (result,) in results]
