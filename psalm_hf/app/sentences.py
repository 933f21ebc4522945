"""Refusals as one sentence on the page."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

REFUSALS = (ValueError, OSError, ImportError)


def one_sentence(function: Callable) -> Callable:
    """The function, or generator, whose refusals become one sentence on the page, which lives on."""

    @functools.wraps(function)
    def answered(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except REFUSALS as error:
            raise _shown(error) from error

    @functools.wraps(function)
    def yielded(*arguments: Any) -> Iterator[Any]:
        try:
            yield from function(*arguments)
        except REFUSALS as error:
            raise _shown(error) from error

    return yielded if inspect.isgeneratorfunction(function) else answered


def _shown(error: Exception) -> gr.Error:
    return gr.Error(" ".join(str(error).split()), duration=15, print_exception=False)
