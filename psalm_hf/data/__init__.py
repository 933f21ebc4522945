"""Datasets: files on disk, or nothing but a seed -> rows -> `Sample`s. Tokens and tensors come later, from the processor."""

from .load import DATASETS, DatasetTable, list_datasets, load

__all__ = ["DATASETS", "DatasetTable", "list_datasets", "load"]
