"""The start of a model for a dataset of files: random weights, and a tokenizer that knows the dataset's words."""

import json
from pathlib import Path

import pytest
from PIL import Image

from psalm_hf import PsalmForSegmentation, PsalmProcessor
from psalm_hf.cli import train
from psalm_hf.training.start import train_tokenizer

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("given", ["config", "command line"])
def test_without_steps_there_is_a_random_model_that_reads_the_words_of_its_sources(given, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)  # where the paths of the config start
    Image.new("RGB", (64, 48), "red").save(tmp_path / "one.png")
    mask = {"size": [48, 64], "counts": [0, 48 * 64]}
    line = {"image": "one.png", "text": "the quokka behind the umbrella", "masks": [mask]}
    (tmp_path / "train.jsonl").write_text(json.dumps(line), encoding="utf-8")
    sources = {"mine": {"dataset": "own_jsonl", "data_dir": str(tmp_path), "cache_dir": str(tmp_path / "cache")}}
    config = {"model_file": "examples/configs/photos_model.yaml", "output_dir": str(tmp_path / "start"), "steps": 0}
    options = ["--sources", json.dumps(sources)] if given == "command line" else []
    path = tmp_path / "start.yaml"
    path.write_text(json.dumps(config if options else config | {"sources": sources}), encoding="utf-8")  # JSON is YAML
    assert train.main(["--config", str(path), *options]) == 0

    tokenizer = PsalmProcessor.from_pretrained(tmp_path / "start").tokenizer
    assert [len(tokenizer.tokenize(word)) for word in ("quokka", "umbrella", "Please")] == [1, 1, 1]  # the last is of the instructions
    assert len(tokenizer.tokenize("octagon")) > 1  # of the shapes world
    assert PsalmForSegmentation.from_pretrained(tmp_path / "start").config.text_config.vocab_size == tokenizer.vocab_size


def test_frequent_words_are_one_token_and_any_text_survives():
    tokenizer = train_tokenizer(["the striped red star"] * 50, vocab_size=300)
    assert len(tokenizer(" striped", add_special_tokens=False)["input_ids"]) == 1
    text = "naïve café 日本 <unseen>"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]).strip() == text
    assert tokenizer("[SEG]", add_special_tokens=False)["input_ids"] == [tokenizer.convert_tokens_to_ids("[SEG]")]


def test_a_word_has_the_same_tokens_wherever_it_stands():
    tokenizer = train_tokenizer(["the striped red star, a star"] * 50, vocab_size=300)
    alone, inside = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("star", "the red\nstar, "))
    assert len(alone) == 1 and alone[0] in inside


def test_vocabulary_below_the_bytes_is_refused():
    with pytest.raises(ValueError, match="at least 259"):
        train_tokenizer(["a"], vocab_size=200)
