"""Requests of several clients answered together. Plain Python: no Ray and no web server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

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


class RequestQueue:
    """Requests that wait for the model. When it is free, as many as there may be are answered together, those about one image first.

    Batches are made when the model is free and not when requests arrive, as those of `serve.batch` are: with a slow model these stay
    small, see docs/experiments.md. It is used in one event loop.

    Args:
        answer: gives a result for each of a list of requests; called in a thread of its own.
        max_batch_size: requests of a batch; a question is one by itself, because it takes long and shares nothing.
        wait_s: seconds that a free model waits for a full batch, from the first request on.
    """

    def __init__(self, answer: Callable[[list[AskedPrompt]], Sequence[PsalmResult | RefusedRequest]], max_batch_size: int, wait_s: float):
        self._answer, self.max_batch_size, self.wait_s = answer, max_batch_size, wait_s
        self._waiting: list[tuple[AskedPrompt, asyncio.Future]] = []
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "model")  # of its own: threads that read images must not keep the model waiting
        self._task: asyncio.Task | None = None

    async def answer(self, asked: AskedPrompt) -> PsalmResult | RefusedRequest:
        """The result of a request, when its batch is answered."""
        if self._task is None:
            self._task = asyncio.create_task(self._answer_batches())
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, future))
        self._arrived.set()
        return await future

    async def _answer_batches(self) -> None:
        while True:
            await self._fill(1)
            with suppress(TimeoutError):
                async with asyncio.timeout(self.wait_s):
                    await self._fill(self.max_batch_size)
            batch = self._take()
            try:
                loop = asyncio.get_running_loop()
                results = await loop.run_in_executor(self._thread, self._answer, [asked for asked, _ in batch]) if batch else []
                for (_, future), result in zip(batch, results, strict=True):
                    if not future.done():  # its client may have gone meanwhile
                        future.set_result(result)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)

    async def _fill(self, number: int) -> None:
        """Returns when so many requests wait."""
        while len(self._waiting) < number:
            self._arrived.clear()
            await self._arrived.wait()

    def _take(self) -> list[tuple[AskedPrompt, asyncio.Future]]:
        """The next batch, without requests whose clients have gone: the one that waits longest, and those that fit to it."""
        self._waiting = [one for one in self._waiting if not one[1].done()]
        if not self._waiting:
            return []
        first = self._waiting[0][0]
        fitting = [one for one in self._waiting if not one[0].is_question]
        fitting.sort(key=lambda one: one[0].image_key != first.image_key)  # stable: otherwise in the order in which they came
        batch = self._waiting[:1] if first.is_question else fitting[: self.max_batch_size]
        self._waiting = [one for one in self._waiting if one not in batch]
        return batch
