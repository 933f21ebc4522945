"""LZString on texts whose packing is known, and on the real masks."""

import json

import pytest

from psalm_hf.data.prepare.lzstring import decompress_from_uri_component
from tests.conftest import SAMPLES


def pack(text):
    """LZString's `compressToEncodedURIComponent`, written from its format in the plainest way."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-$"
    bits, codes, new = [], {}, set()
    state = {"width": 2, "free": 2, "next": 3}

    def write(value, width):
        bits.extend(value >> shift & 1 for shift in range(width))

    def used():
        state["free"] -= 1
        if not state["free"]:
            state["free"] = 1 << state["width"]
            state["width"] += 1

    def emit(phrase):
        if phrase in new:
            wide = ord(phrase) > 255
            write(int(wide), state["width"])
            write(ord(phrase), 16 if wide else 8)
            used()
            new.discard(phrase)
        else:
            write(codes[phrase], state["width"])
        used()

    phrase = ""
    for character in text:
        if character not in codes:
            codes[character] = state["next"]
            state["next"] += 1
            new.add(character)
        if phrase + character in codes:
            phrase += character
            continue
        emit(phrase)
        codes[phrase + character] = state["next"]
        state["next"] += 1
        phrase = character
    if phrase:
        emit(phrase)
    write(2, state["width"])
    bits.append(0)
    bits += [0] * (-len(bits) % 6)
    return "".join(alphabet[int("".join(map(str, bits[start : start + 6])), 2)] for start in range(0, len(bits), 6))


@pytest.mark.parametrize(
    "text", ["", "a", "aaaaaaaaaaaa", "hello hello hello", "\\^`0oO@?" * 7, "ä€ 漢字" * 3, "".join(map(chr, range(48, 112))) * 40]
)
def test_what_was_packed_comes_back(text):
    assert decompress_from_uri_component(pack(text)) == text


def test_a_form_may_have_made_spaces_of_the_plus_signs():
    text = "".join(map(chr, range(48, 112))) * 40
    assert "+" in pack(text) and decompress_from_uri_component(pack(text).replace("+", " ")) == text


def test_what_is_not_packed_is_refused():
    with pytest.raises(ValueError, match="the character '%' does not occur"):
        decompress_from_uri_component("AB%")
    with pytest.raises(ValueError, match="ends after 3 characters"):
        decompress_from_uri_component(pack("hello hello")[:3])
    with pytest.raises(ValueError, match="ends after 0 characters"):
        decompress_from_uri_component("")


@pytest.mark.samples
def test_the_real_masks_are_those_of_the_ground_truth():
    relations = json.loads((SAMPLES / "egoexo4d/annotations/relations_val.json").read_text())["annotations"]
    truth = json.loads((SAMPLES / "egoexo4d/correspondence-gt.json").read_text())["annotations"]
    for take, content in relations.items():
        for name, views in content["object_masks"].items():
            for camera, view in views.items():
                for frame, entry in view["annotation"].items():
                    rle = {"size": [entry["height"], entry["width"]], "counts": decompress_from_uri_component(entry["encodedMask"])}
                    assert rle == truth[take]["masks"][name][camera][frame]


def test_a_text_that_grows_beyond_any_mask_is_refused():
    packed = pack("0" * 300_000)  # each phrase is one longer than the last: 774 codes
    assert len(packed) < 2000 and decompress_from_uri_component(packed) == "0" * 300_000
    with pytest.raises(ValueError, match="unpack to more than 4194304"):
        decompress_from_uri_component(growing(10_000))


def growing(number):
    """Packed text of a new character, and then always the phrase that this very step makes: 1, 2, 3, ... characters."""
    width, free, phrases = 2, 1, 3
    bits = "00" + format(48, "08b")[::-1]

    def add():
        nonlocal width, free, phrases
        phrases, free = phrases + 1, free - 1
        if not free:
            width, free = width + 1, 1 << width

    add()
    for _ in range(number):
        bits += format(phrases, f"0{width}b")[::-1]
        add()
    bits += "0" * (-len(bits) % 6)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-$"
    return "".join(alphabet[int(bits[start : start + 6], 2)] for start in range(0, len(bits), 6))
