"""Config files and what overrides them."""

from dataclasses import dataclass, field

import pytest
from transformers import IntervalStrategy

from psalm_hf.training.arguments import read_config


@dataclass
class Data:
    source: str
    weights: dict
    parts: list[str] = field(default_factory=list)


@dataclass
class Run:
    steps: int = 10
    rate: float | None = None
    strategy: IntervalStrategy | str = "steps"


@pytest.fixture
def read(tmp_path):
    path = tmp_path / "config.yaml"

    def call(text="{source: here, weights: {panoptic: 1}}", *overrides):
        path.write_text(text)
        return read_config(path, overrides, (Data, Run))

    return call


def test_every_class_gets_its_fields_and_the_command_line_is_stronger(read):
    data, run = read("{source: here, weights: {panoptic: 1}, steps: 5, rate: 1}", "--steps", "7", "--weights", "{referring: 2}")
    assert data == Data("here", {"referring": 2})
    assert run == Run(steps=7, rate=1)


def test_what_yaml_reads_otherwise_is_read_as_meant(read):
    _, run = read("{source: here, weights: {}, rate: 1e-3}", "--strategy", "no")
    assert run == Run(rate=0.001, strategy="no")


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("{source: here, weights: {}, stepz: 5}", (), "config.yaml: no such fields: stepz"),
        ("{source: here}", (), "config.yaml: missing fields: weights"),
        ("{source: here, weights: {}, steps: ten}", (), "steps is the text 'ten', expected int"),
        ("{source: here, weights: {}, rate: high}", (), "rate is the text 'high', expected float"),
        ("{source: here, weights: {}, parts: head}", (), r"parts is the text 'head', expected list\[str\]"),
        ("{source: here, weights: {}}", ("--steps",), "pairs `--field value`, got --steps"),
        ("{source: here, weights: {}}", ("steps", "5"), "pairs `--field value`, got steps 5"),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused(read, text, overrides, message):
    with pytest.raises(ValueError, match=message):
        read(text, *overrides)
