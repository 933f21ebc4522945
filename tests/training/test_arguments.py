"""Config files and what overrides them."""

import pickle
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from transformers import IntervalStrategy

from psalm_hf.training.arguments import PsalmTrainingArguments, read_config
from psalm_hf.training.configs import find_config, read_overrides, shipped_configs


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


def test_what_was_probably_meant_by_a_field_is_said(read):
    with pytest.raises(ValueError, match="config.yaml: no such fields: stepz; those of Data and Run are known; did you mean steps?"):
        read("{source: here, weights: {}, stepz: 5}")


def test_a_file_that_is_no_list_of_fields_is_refused(read):
    for text, message in (
        ("- source", "config.yaml: expected fields and values, got \"\\['source'\\]\""),
        ("{source: [", "config.yaml: is no YAML"),
    ):
        with pytest.raises(ValueError, match=message):
            read(text)


def test_overrides_are_words_or_a_mapping(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("{source: here, weights: {panoptic: 1}}")
    as_words = read_config(path, ["--steps", "7", "--rate=1e-3"], (Data, Run))
    assert as_words == read_config(path, {"steps": 7, "rate": 1e-3}, (Data, Run)) == (Data("here", {"panoptic": 1}), Run(7, 1e-3))


def test_dashes_in_the_name_of_a_field_are_underscores_and_values_are_yaml():
    words = ["--max-steps", "5", "--model={num_queries: 50}", "--output_dir", "a-b", "--seed", "-1", "--text", "a=b"]
    assert read_overrides(words) == {"max_steps": 5, "model": {"num_queries": 50}, "output_dir": "a-b", "seed": -1, "text": "a=b"}
    with pytest.raises(ValueError, match="--model {a:: the value is no YAML"):
        read_overrides(["--model", "{a:"])


@pytest.mark.parametrize("name", ["tiny_shapes", "tiny_shapes.yaml", "examples/configs/tiny_shapes.yaml"])
def test_a_config_that_ships_is_found_by_name_in_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == shipped_configs() / "tiny_shapes.yaml"
    (tmp_path / "tiny_shapes.yaml").touch()
    assert find_config("tiny_shapes.yaml") == Path("tiny_shapes.yaml")  # a path comes first


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny_shape", "tiny_shape: there is no such file, and no config of that name ships with psalm_hf; did you mean tiny_shapes?"),
        ("runs/tiny_shapes", "runs/tiny_shapes: there is no such file.*did you mean tiny_shapes?"),  # that folder has none
        ("wibble", "those that ship are accelerate_cpu, .*tiny_vision"),
    ],
)
def test_a_config_that_is_nowhere_says_what_there_is(name, message):
    with pytest.raises(FileNotFoundError, match=message):
        find_config(name)


@pytest.mark.parametrize("named", ["mine.json", "deepspeed_zero2.json", "deepspeed_zero2", "examples/configs/deepspeed_zero2.json"])
def test_a_file_that_a_config_names_may_lie_beside_it_or_ship(named, tmp_path, monkeypatch):
    pytest.importorskip("deepspeed")
    monkeypatch.setattr(PsalmTrainingArguments, "__post_init__", lambda self: None)  # which would begin to run DeepSpeed
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.json").write_text("{}")
    (tmp_path / "run" / "config.yaml").write_text(f"{{deepspeed: {named}, output_dir: out}}")
    monkeypatch.chdir(tmp_path)
    (training,) = read_config("run/config.yaml", [], (PsalmTrainingArguments,))
    expected = "run/mine.json" if named == "mine.json" else shipped_configs() / "deepspeed_zero2.json"
    assert training.deepspeed == str(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected fields and values, got an empty file"),
        ("1: 2\nsource: here", r"expected names of fields, got 1 \(line 1\)"),
        ("source: here\nweights: {}\nsteps: [5]", r"steps is \[5\], expected int \(line 3\)"),
        ("source: here\nweights: {}\nsteps: true", r"steps is True, expected int \(line 3\)"),
        ("source: here\nweights: [panoptic]", r"weights is \['panoptic'\], expected dict \(line 2\)"),
        ("source: here\nweights: {1: 2}", r"weights is \{1: 2\}, expected dict \(line 2\)"),
        ("source: 5\nweights: {}", r"source is 5, expected str; put quotes around it \(line 1\)"),
        ("source: here\nweights: {}\nrate: .nan", r"rate is nan, expected float \| None \(line 3\)"),
        ("source: here\nweights: {}\nparts: [1]", r"parts is \[1\], expected list\[str\] \(line 3\)"),
        ("source: here\nweights: {}\nsteps: -1", r"steps is -1, expected at least 0 \(line 3\)"),
        ("source: here\nweights: {}\nsteps: 1\nsteps: 2", r"is no YAML \(line 4, column 1: 'steps' is there twice\)"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_file_field_and_line(read, text, message):
    with pytest.raises(ValueError, match=f"config.yaml: {message}$"):
        read(text)


def test_the_line_of_the_file_is_not_said_of_what_overrides_it(read):
    with pytest.raises(ValueError, match=r"steps is \[5\], expected int$"):
        read("source: here\nweights: {}\nsteps: 5", "--steps", "[5]")


def test_what_transformers_refuses_is_named_by_file_and_field(tmp_path):
    (tmp_path / "config.yaml").write_text("output_dir: out\nuse_cpu: true\nlr_scheduler_type: wobbly\n")
    with pytest.raises(ValueError, match=r"config.yaml: lr_scheduler_type: wobbly is not a valid SchedulerType, .* \(line 3\)"):
        read_config(tmp_path / "config.yaml", [], (PsalmTrainingArguments,))


def test_pickled_arguments_hold_neither_the_token_nor_folders_of_the_machine(tmp_path):
    """They go into every checkpoint, and to the Hub."""
    arguments = PsalmTrainingArguments(output_dir=str(tmp_path / "run"), hub_token="hf_secret", use_cpu=True, report_to="none")
    content = pickle.dumps(arguments)
    assert b"hf_secret" not in content and str(tmp_path).encode() not in content
    assert pickle.loads(content).output_dir == "run"
    assert arguments.output_dir == str(tmp_path / "run") and arguments.hub_token == "hf_secret"
