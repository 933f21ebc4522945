"""The rows of the table name things that exist."""

import inspect

import pytest

from psalm_hf import PsalmProcessor
from psalm_hf.model.prompts import HUMAN_TURNS
from psalm_hf.tasks import TASKS

KEYWORDS = {"category": "categories", "sentence": "expressions", "region": "regions"}


@pytest.mark.parametrize("name", TASKS)
def test_a_row_names_a_prompt_a_keyword_and_a_method_of_the_processor(name):
    task = TASKS[name]
    assert KEYWORDS[task.condition] in inspect.signature(PsalmProcessor.__call__).parameters
    assert all(task.prompt in turns for turns in HUMAN_TURNS.values())
    assert "target_sizes" in inspect.signature(getattr(PsalmProcessor, task.post_process)).parameters
    assert task.metrics


def test_the_table_cannot_be_changed():
    with pytest.raises(TypeError):
        TASKS["panoptic"] = TASKS["semantic"]
