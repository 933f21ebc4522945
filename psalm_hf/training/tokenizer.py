"""A small tokenizer for a model that starts from nothing."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: words of `texts` become few tokens, and any other text is still tokenised, down to its bytes.

    White space separates words and is not kept. A word has the same tokens wherever it stands: a prompt is tokenised in pieces, and
    without this the category "star" and the "star" of an expression would be strangers to the model.

    Args:
        texts: what the model will read, instructions included.
        vocab_size: entries, at least the 256 bytes and three special tokens.

    Returns:
        A tokenizer with `<|endoftext|>`, `[PAD]` and `[SEG]`.

    Raises:
        ValueError: vocab_size too small.
    """
    special = ["<|endoftext|>", "[PAD]", "[SEG]"]
    if vocab_size < 256 + len(special):
        raise ValueError(f"vocab_size is {vocab_size}; a byte-level vocabulary needs at least {256 + len(special)}")
    tokenizer = Tokenizer(models.BPE())
    words = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(words)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="[PAD]",
        additional_special_tokens=["[SEG]"],
        model_max_length=2048,
    )
