"""Results over a part of the categories: those that PSALM's training data has, and the others, a failure that its paper names."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from functools import cache

from ..data.benchmarks.label_lists import label_list
from .evaluators.base import Numbers

# COCO's name of a category -> other names of the SAME in the lists of benchmarks: another word for it ("sofa"), another spelling
# ("doughnut"), or what a list happens to call it ("track" is Pascal Context's railroad, "blind" and "window screen" one class of ADE20K).
# A kind or a part of a category is none: "armchair", "skyscraper", "hill", "rider", "desk" are unseen, though COCO's annotators drew them
# as chair, building, mountain, person and table; so is what is more than it: "ball", "animal", "vegetation", "plant", "traffic sign".
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "motorcycle": ("motorbike", "minibike"),
    "airplane": ("aeroplane",),
    "fire hydrant": ("fireplug",),
    "tie": ("necktie",),
    "donut": ("doughnut",),
    "couch": ("sofa",),
    "tv": ("television", "television set", "television receiver", "tvmonitor"),
    "laptop": ("laptop computer",),
    "remote": ("remote control",),
    "keyboard": ("computer keyboard",),
    "cell phone": ("cellular telephone", "mobile phone"),
    "microwave": ("microwave oven",),
    "refrigerator": ("fridge",),
    "hair drier": ("hair dryer",),
    "house": ("house exterior",),
    "light": ("lamp", "light bulb"),
    "railroad": ("track", "train track", "railway"),
    "road": ("street",),
    "sea": ("ocean",),
    "shelf": ("shelves",),
    "stairs": ("step", "stairway", "staircase"),
    "floor-wood": ("wood floor",),
    "wall-brick": ("brick wall",),
    "wall-stone": ("stone wall",),
    "wall-tile": ("tile wall",),
    "wall-wood": ("wood wall",),
    "window-blind": ("blind", "window screen"),
    "window-other": ("windowpane",),
    "pavement-merged": ("sidewalk",),
    "rock-merged": ("stone",),
    "rug-merged": ("carpet",),
}


def is_seen(name: str) -> bool:
    """True if a category is one of the 133 of COCO panoptic, on which PSALM is trained.

    It is if its name is COCO's or one of `SYNONYMS`. Letter case, blanks, hyphens, underscores, what stands in parentheses and a final s do
    not matter, nor what COCO adds ("sky-other-merged" is "sky").

    Args:
        name: what the category is prompted by. Of several names with commas between them the first decides, because the others are
            often kinds ("animal,dog,cat") or neighbours ("traffic sign,stop sign"). So a class is as seen by one name as by all of them,
            but lists may name it differently: ADE20K's "glass" is "cup" for FC-CLIP.
    """
    return _key(name.partition(",")[0]) in _seen_keys()


def seen_and_unseen(categories: Mapping[int, str]) -> dict[str, list[int]]:
    """ "seen" and "unseen" -> ids of the categories.

    Args:
        categories: id -> what it is prompted by.
    """
    groups: dict[str, list[int]] = {"seen": [], "unseen": []}
    for category_id, name in categories.items():
        groups["seen" if is_seen(name) else "unseen"].append(category_id)
    return groups


def group_means(per_category: Mapping[int, Numbers], groups: Mapping[str, Collection[int]]) -> dict[str, Numbers]:
    """Group -> mean of each number over its categories: the number that the metric would give if the others were not counted.

    Args:
        per_category: category id -> numbers in percent, as evaluators give them; categories that nothing defines are not in it.
        groups: name -> ids of its categories, see `seen_and_unseen`. A group of which no category has numbers is left out.

    Returns:
        means under the evaluators' names: "mIoU" and "mACC" for "IoU" and "ACC".
    """
    means: dict[str, Numbers] = {}
    for group, ids in groups.items():
        values: dict[str, list[float]] = {}
        for category_id in ids:
            for name, value in per_category.get(category_id, {}).items():
                if not math.isnan(value):
                    values.setdefault({"IoU": "mIoU", "ACC": "mACC"}.get(name, name), []).append(value)
        if values:
            means[group] = {name: math.fsum(numbers) / len(numbers) for name, numbers in values.items()}
    return means


@cache
def _seen_keys() -> frozenset[str]:
    names = [names[0] for names in label_list("coco_panoptic")]
    return frozenset(map(_key, (*names, *(synonym for synonyms in SYNONYMS.values() for synonym in synonyms))))


def _key(name: str) -> str:
    name = re.sub(r"\(.*?\)", "", name.lower())
    name = re.sub(r"-(other-merged|merged|other|stuff)$", "", name.strip())
    return re.sub(r"[\s_-]+", "", name).removesuffix("s")
