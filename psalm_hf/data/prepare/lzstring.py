"""Text that was packed by LZString's `compressToEncodedURIComponent`, as the masks of Ego-Exo4D are.

The text is a stream of bits, six in each character, highest first. In it, numbers lie with their lowest bit first. They are codes of LZ78:
0 and 1 introduce a new character of 8 or 16 bits, 2 ends the text, others repeat an earlier phrase. Codes grow by a bit whenever the
phrases (new characters counted once more) have filled all that there are.

Source: the format of github.com/pieroxy/lz-string (MIT).
"""

from __future__ import annotations

MAX_CHARACTERS = 2**22  # of a mask of Ego-Exo4D, some thousand
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-$"

_BITS = {character: format(value, "06b") for value, character in enumerate(ALPHABET[:64])} | {"$": ""}  # $ only fills up
_NEW_CHARACTER = {0: 8, 1: 16}
_END = 2


def decompress_from_uri_component(packed: str) -> str:
    """Unpacks a text.

    Raises:
        ValueError: characters that do not occur in packed text, its end is missing, or it unpacks to more than 4 million characters.
    """
    try:
        bits = "".join(_BITS[character] for character in packed.replace(" ", "+"))
    except KeyError as error:
        raise ValueError(f"LZString: the character {error} does not occur in packed text") from None
    position = 0

    def read(number: int) -> int:
        nonlocal position
        position += number
        if position > len(bits):
            raise ValueError(f"LZString: the text ends after {len(packed)} characters, before its end mark")
        return int(bits[position - number : position][::-1], 2)

    def add(phrase: str) -> None:
        nonlocal width, free
        phrases.append(phrase)
        free -= 1
        if not free:
            width, free = width + 1, 1 << width

    phrases: list[str] = [""] * 3  # numbers 0 to 2 are no phrases
    width, free = 2, 1  # bits of a code, and how many more phrases such codes can name
    text: list[str] = []
    length = 0
    previous = ""
    while True:
        code = read(width)
        if code == _END:
            return "".join(text)
        if code in _NEW_CHARACTER:
            phrase = chr(read(_NEW_CHARACTER[code]))
            add(phrase)
        elif code < len(phrases):
            phrase = phrases[code]
        elif code == len(phrases) and previous:
            phrase = previous + previous[0]  # the phrase that this very step makes
        else:
            raise ValueError(f"LZString: phrase {code} is repeated before it occurs")
        length += len(phrase)
        if length > MAX_CHARACTERS:  # before the phrases, which repeat each other, take more memory than the text
            raise ValueError(f"LZString: {len(packed)} characters unpack to more than {MAX_CHARACTERS}")
        text.append(phrase)
        if previous:
            add(previous + phrase[0])
        previous = phrase
