"""Pascal Context: semantic segmentation with 59 or 459 categories. See docs/datasets/pascal_context.md."""

from __future__ import annotations

from collections.abc import Mapping

from ..features import Category
from .label_lists import joined_names, label_list
from .label_maps import SemanticMapBuilder
from .pascal_voc import VOC_NAMES

_FOLDERS = {"train": "training", "val": "validation"}
_THINGS = {*VOC_NAMES, "table"}  # "diningtable" among the 59

# Of the labels 1..459, those that are the categories 0..58, in their order. Source: the preparation scripts of ODISE and FC-CLIP.
# fmt: off
LABELS_OF_59 = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159, 162, 187, 189, 207,
    220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454,
    458,
)
# fmt: on


class PascalContext59(SemanticMapBuilder):
    """Pascal Context with one mask per category; ids 0..58, the values of the maps."""

    summary = "Pascal Context: the 59 most frequent categories"
    docs_page = "Pascal Context"
    published = {"train": {"images": 4998}, "val": {"images": 5105}}
    number = 59
    void = 255

    @property
    def folders(self) -> tuple[str, str]:
        folder = _FOLDERS[self.config.split]
        return f"images/{folder}", f"annotations_ctx{self.number}/{folder}"

    def read_categories(self) -> tuple[Category, ...]:
        """Categories by id. Pascal Context does not say which are things; here they are the classes of Pascal VOC."""
        benchmark = f"pc{self.number}"
        first = [names[0] for names in label_list(benchmark)]
        prompted = joined_names(benchmark) if self.config.names == "synonyms" else first
        return tuple(Category(position, name, is_thing=first[position] in _THINGS) for position, name in enumerate(prompted))

    def labels(self) -> Mapping[int, int | None]:
        return {label: label for label in range(self.number)} | {self.void: None}


class PascalContext459(PascalContext59):
    """Pascal Context with one mask per category; ids 0..458, the values of the maps, which are TIFF files of 16 bits."""

    summary = "Pascal Context: all 459 categories"
    number = 459
    map_end = ".tif"
    void = 65535
