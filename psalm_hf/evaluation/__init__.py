"""Evaluation: a model on a benchmark, from its files to numbers, submission files and drawings."""

from .evaluation import Evaluation, evaluate
from .results import Results

__all__ = ["Evaluation", "Results", "evaluate"]
