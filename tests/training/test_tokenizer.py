import pytest

from psalm_hf.training.tokenizer import train_tokenizer


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
