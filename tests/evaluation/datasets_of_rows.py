"""Datasets of drawn rows, and answers to them, for tests of formats."""

import numpy as np
from datasets import Dataset

from psalm_hf.data.features import ROW_FEATURES, SampleDataset, row_from_sample
from psalm_hf.masks import rle_from_bitmap
from psalm_hf.structures import Sample

SIZE = (4, 6)


def columns(start, end):
    """RLE of some columns of an image."""
    bitmap = np.zeros(SIZE, dtype=bool)
    bitmap[:, start:end] = True
    return rle_from_bitmap(bitmap)


def dataset_of(categories, image_ids, task="panoptic"):
    """An image per id, without truth."""
    names = {category.id: category.name for category in categories}
    rows = [row_from_sample(Sample("a.jpg", image_id, SIZE, categories=names, task=task)) for image_id in image_ids]
    return SampleDataset(Dataset.from_list(rows, features=ROW_FEATURES), categories, task)


def written(form, folder, dataset, answers):
    """A folder with the answers to all rows."""
    folder.mkdir(exist_ok=True)
    form.write(folder, zip(dataset, answers, strict=True))
    return folder
