"""Language of the shapes world: referring expressions, questions with answers, captions, and phrases that name categories.

Every text is true of the VISIBLE things, with a margin: an expression is dropped if a careful reader could doubt whether it means a thing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Literal, TypeVar

from .scene import COLORS, EXPRESSIONS, HELD_OUT, PATTERNS, PHRASES, QUESTIONS, SHAPES, STUFF, Dice, Scene, Thing

ExpressionKind = Literal["attribute", "superlative", "ordinal", "relation"]
QuestionKind = Literal["color", "count", "relation", "existence"]

EXPRESSION_KINDS: tuple[ExpressionKind, ...] = ("attribute", "superlative", "ordinal", "relation")
QUESTION_KINDS: tuple[QuestionKind, ...] = ("color", "count", "relation", "existence")
MAX_PROMPTS = 16  # expressions or questions of one scene

# In percent. What a scene does not offer becomes an attribute expression with one target, so that attributes end up with more.
KIND_WEIGHTS: Mapping[ExpressionKind, int] = {"attribute": 36, "superlative": 18, "ordinal": 23, "relation": 23}
NUMBER_WEIGHTS: Mapping[str, int] = {"one": 58, "several": 20, "none": 22}

MARGIN = 1 / 16  # of the side of the image: two positions closer than that are the same
SIZE_RATIO = 1.3  # two areas whose ratio is below are the same size
SIDES = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}  # where coordinates (x, y) grow
SUPERLATIVES = {"leftmost": "left", "rightmost": "right", "topmost": "top", "bottommost": "bottom"}
RELATIONS = {"left of": "left", "right of": "right", "above": "top", "below": "bottom"}
ORDINALS = {2: "second", 3: "third", 4: "fourth"}
NUMBER_WORDS = {2: "two", 3: "three"}


@dataclass(frozen=True)
class Expression:
    """Referring expression.

    Attributes:
        text: in lower case.
        kind: the skill that it needs: "attribute" (words for pattern, colour, shape), "superlative" (an extreme of size or
            position), "ordinal" (counting from one side) or "relation" (another thing, or the stuff below it).
        targets: indices into `Scene.things`; several or none are possible.
    """

    text: str
    kind: ExpressionKind
    targets: tuple[int, ...]


@dataclass(frozen=True)
class Question:
    """Question, its one right answer (a word or a number in digits), and its kind."""

    text: str
    answer: str
    kind: QuestionKind


Said = TypeVar("Said", Expression, Question)


@dataclass(frozen=True)
class Phrase:
    """Description by attributes; None = any."""

    pattern: str | None = None
    color: str | None = None
    shape: str | None = None

    def describes(self, thing: Thing) -> bool:
        """True if the thing has every attribute that is named."""
        return self.pattern in (None, thing.pattern) and self.color in (None, thing.color) and self.shape in (None, thing.shape)

    @property
    def num_attributes(self) -> int:
        """Number of attributes that are named, of the three."""
        return sum(word is not None for word in (self.pattern, self.color, self.shape))

    @property
    def singular(self) -> str:
        """Text such as "striped red star"; without a shape "striped red thing"."""
        return " ".join(word for word in (self.pattern, self.color, self.shape or "thing") if word)

    @property
    def plural(self) -> str:
        """Text such as "striped red stars"."""
        return self.singular + ("es" if self.shape == "cross" else "s")


def expressions(scene: Scene, number: int) -> list[Expression]:
    """First `number` expressions of a scene, no two with the same text; a larger number begins with the same ones.

    Raises:
        ValueError: number not in 1 to 16.
    """
    _check_number(number)
    return _distinct(_Speaker(scene, EXPRESSIONS).expression, number)


def questions(scene: Scene, number: int) -> list[Question]:
    """First `number` questions of a scene, no two with the same text; a larger number begins with the same ones.

    Raises:
        ValueError: number not in 1 to 16.
    """
    _check_number(number)
    return _distinct(_Speaker(scene, QUESTIONS).question, number)


def caption(scene: Scene) -> str:
    """Caption of a scene: all things from left to right, then all stuff: "a solid red star, a dotted blue ring on grass and sand"."""
    order = sorted(scene.things, key=lambda thing: thing.position)
    things = ", ".join(f"a {Phrase(thing.pattern, thing.color, thing.shape).singular}" for thing in order)
    return f"{things} on {' and '.join(scene.stuff)}"


def phrase_categories(scene: Scene) -> tuple[list[Phrase], list[int]]:
    """Phrases as categories of the things. The attributes that they name are drawn per scene; some describe nothing in the image.

    Returns:
        Phrases in random order, no two of which can describe the same thing; and for every thing the position of its phrase.
    """
    dice = scene.dice(PHRASES)
    names = dice.choice(_NAMED_ATTRIBUTES)
    own = [_phrase_of(thing, names) for thing in scene.things]
    phrases = list(dict.fromkeys(own))
    wanted = len(phrases) + dice.between(2, 4)
    for _ in range(4 * wanted):
        if len(phrases) < wanted:
            other = _alter(_phrase_of(dice.choice(scene.things), names), dice)
            if other not in phrases and not _is_held_out(other, scene):
                phrases.append(other)
    phrases = dice.sample(phrases, len(phrases))
    return phrases, [phrases.index(phrase) for phrase in own]


def _distinct(say: Callable[[], Said], number: int) -> list[Said]:
    """Calls `say` until there are `number` different texts."""
    found: dict[str, Said] = {}
    while len(found) < number:
        said = say()
        found.setdefault(said.text, said)
    return list(found.values())


def _check_number(number: int) -> None:
    if not 1 <= number <= MAX_PROMPTS:
        raise ValueError(f"shapes: a scene has 1 to {MAX_PROMPTS} expressions or questions, asked for {number}")


_WORDS = {"pattern": PATTERNS, "color": tuple(COLORS), "shape": SHAPES}
# Shapes alone are the panoptic categories of the ground truth; patterns alone say little.
_NAMED_ATTRIBUTES = (("color",), ("color", "shape"), ("pattern", "shape"), ("pattern", "color"), ("pattern", "color", "shape"))
_SUBSETS = [names for size in range(1, 4) for names in combinations(_WORDS, size)]


def _phrase_of(thing: Thing, names: Sequence[str]) -> Phrase:
    return Phrase(**{name: getattr(thing, name) for name in names})


def _alter(phrase: Phrase, dice: Dice) -> Phrase:
    """Phrase with one of its words replaced by another of its kind."""
    name = dice.choice([name for name in _WORDS if getattr(phrase, name) is not None])
    words = {other: getattr(phrase, other) for other in _WORDS}
    words[name] = dice.choice([word for word in _WORDS[name] if word != words[name]])
    return Phrase(**words)


def _is_held_out(phrase: Phrase, scene: Scene) -> bool:
    """True if the words would give away, in another split, a pair of colour and shape kept for "unseen"."""
    return scene.split != "unseen" and (phrase.color, phrase.shape) in HELD_OUT


class _Speaker:
    """Says things about one scene, one after the other, with dice of its own."""

    def __init__(self, scene: Scene, purpose: int):
        self.scene = scene
        self.things = scene.things
        self.dice = scene.dice(purpose)
        self.margin = scene.image.shape[0] * MARGIN

    @cached_property
    def groups(self) -> dict[Phrase, tuple[int, ...]]:
        """Phrases of one to three attributes, and the bare "thing" -> the things that they describe; those that describe none are left
        out."""
        groups: dict[Phrase, list[int]] = defaultdict(list)
        for index, thing in enumerate(self.things):
            for names in _SUBSETS:
                groups[_phrase_of(thing, names)].append(index)
        return {Phrase(): tuple(range(len(self.things))), **{phrase: tuple(members) for phrase, members in groups.items()}}

    @cached_property
    def single(self) -> list[tuple[Phrase, int]]:
        """Phrases that describe exactly one thing."""
        return [(phrase, members[0]) for phrase, members in self.groups.items() if len(members) == 1]

    @cached_property
    def several(self) -> list[tuple[Phrase, tuple[int, ...]]]:
        """Phrases that describe at least two things."""
        return [(phrase, members) for phrase, members in self.groups.items() if len(members) > 1]

    def absent_phrase(self) -> Phrase:
        """Phrase that describes nothing, and differs by one word from one that describes something."""
        while True:
            phrase = _alter(self.dice.choice(list(self.groups)[1:]), self.dice)
            if phrase not in self.groups and not _is_held_out(phrase, self.scene):
                return phrase

    # Expressions

    def expression(self) -> Expression:
        kind, number = _weighted(KIND_WEIGHTS, self.dice), _weighted(NUMBER_WEIGHTS, self.dice)
        for _ in range(8):
            found = getattr(self, f"_{kind}")(number)
            if found is not None:
                return Expression(found[0], kind, tuple(sorted(found[1])))
        found = self._attribute(number) or self._attribute("none")
        return Expression(found[0], "attribute", tuple(sorted(found[1])))

    def _attribute(self, number: str) -> tuple[str, Sequence[int]] | None:
        if number == "none":
            phrase = self.absent_phrase()
            return (f"all {phrase.plural}" if self.dice.percent(25) else f"the {phrase.singular}"), ()
        if number == "several":
            phrases = [item for item in self.several if item[0].num_attributes]
            if not phrases:
                return None
            phrase, members = self.dice.choice(phrases)
            return f"all {phrase.plural}", members
        if not self.single:
            return None
        phrase, member = self.dice.choice(self.single)
        return f"the {phrase.singular}", (member,)

    def _superlative(self, number: str) -> tuple[str, Sequence[int]] | None:
        word = self.dice.choice((*SUPERLATIVES, "largest", "smallest"))
        if number == "none":
            return f"the {word} {self.absent_phrase().singular}", ()
        if not self.several:
            return None
        phrase, members = self.dice.choice(self.several)
        many = 1 if number == "one" else self.dice.between(2, 3)
        if len(members) <= many:
            return None
        if word in SUPERLATIVES:
            order = self._order(members, SUPERLATIVES[word])
            if not self._has_gap(order, many, SUPERLATIVES[word]):
                return None
        else:
            order = sorted(members, key=lambda index: self.things[index].area, reverse=word == "largest")
            if not self._is_size_gap(order[:many], order[many:], word):
                return None
        return (f"the {word} {phrase.singular}" if many == 1 else f"the {NUMBER_WORDS[many]} {word} {phrase.plural}"), order[:many]

    def _ordinal(self, number: str) -> tuple[str, Sequence[int]] | None:
        if number == "several":  # an ordinal has one target
            number = "one"
        side = self.dice.choice(list(SIDES))
        rank = self.dice.between(2, 4)
        if number == "none":
            phrase, members = self.dice.choice(list(self.groups.items()))
            return (f"the {ORDINALS[rank]} {phrase.singular} from the {side}", ()) if len(members) == rank - 1 else None
        if not self.several:
            return None
        phrase, members = self.dice.choice(self.several)
        if len(members) < rank:
            return None
        order = self._order(members, side)
        if not (self._has_gap(order, rank - 1, side) and self._has_gap(order, rank, side)):
            return None
        return f"the {ORDINALS[rank]} {phrase.singular} from the {side}", (order[rank - 1],)

    def _relation(self, number: str) -> tuple[str, Sequence[int]] | None:
        if number != "none" and not self.several:
            return None
        phrase, members = self.dice.choice(self.several if number != "none" else list(self.groups.items()))
        if self.dice.percent(25):
            words, meant = self._on_stuff(members, STUFF if number == "none" else tuple(self.scene.stuff))
        else:
            words, meant = self._beside(phrase, members)
        if meant is None or {0: "none", 1: "one"}.get(len(meant), "several") != number:
            return None
        if meant and len(meant) == len(members):
            return None  # the phrase alone would do
        return f"{f'all {phrase.plural}' if len(meant) > 1 else f'the {phrase.singular}'} {words}", meant

    def _on_stuff(self, members: Sequence[int], names: Sequence[str]) -> tuple[str, list[int] | None]:
        """None if a thing stands on a border."""
        name = self.dice.choice(names)
        grounds = [self.things[index].ground for index in members]
        if None in grounds:
            return "", None
        return f"on the {name}", [index for index, ground in zip(members, grounds, strict=True) if ground == name]

    def _beside(self, phrase: Phrase, members: Sequence[int]) -> tuple[str, list[int] | None]:
        """None if a thing is neither clearly there nor clearly not, or if there is no other thing to refer to."""
        anchors = [item for item in self.single if item[0] != phrase]
        if not anchors:
            return "", None
        anchor, place = self.dice.choice(anchors)
        others = [index for index in members if index != place]
        relation = self.dice.choice(list(RELATIONS))
        offsets = [self._offset(index, place, RELATIONS[relation]) for index in others]
        if not others or any(abs(offset) < self.margin for offset in offsets):
            return "", None
        if 0 < sum(offset > 0 for offset in offsets) == len(others):
            return "", None  # everything the phrase describes, besides the anchor itself
        meant = [index for index, offset in zip(others, offsets, strict=True) if offset > 0]
        return f"{relation} the {anchor.singular}", meant

    # Positions and sizes

    def _coordinate(self, index: int, side: str) -> float:
        """Position of a thing in pixels, growing towards a side of the image."""
        x, y = self.things[index].position
        across, down = SIDES[side]
        return x * across + y * down

    def _offset(self, index: int, other: int, side: str) -> float:
        """Distance in pixels by which a thing is farther towards a side than another."""
        return self._coordinate(index, side) - self._coordinate(other, side)

    def _order(self, members: Sequence[int], side: str) -> list[int]:
        return sorted(members, key=lambda index: self._coordinate(index, side), reverse=True)

    def _has_gap(self, order: Sequence[int], rank: int, side: str) -> bool:
        """True if the first `rank` of an order are clearly apart from the rest."""
        return rank >= len(order) or self._offset(order[rank - 1], order[rank], side) >= self.margin

    def _is_size_gap(self, chosen: Sequence[int], rest: Sequence[int], word: str) -> bool:
        """True if the chosen are clearly larger (or smaller) than the rest, with covered parts counted as well as without."""
        if word == "smallest":
            chosen, rest = rest, chosen
        larger, smaller = [self.things[index] for index in chosen], [self.things[index] for index in rest]
        return all(
            min(size(thing) for thing in larger) >= SIZE_RATIO * max(size(thing) for thing in smaller)
            for size in (lambda thing: thing.area, lambda thing: thing.full_area)
        )

    # Questions

    def question(self) -> Question:
        kind = self.dice.choice(QUESTION_KINDS)
        for _ in range(8):
            found = getattr(self, f"_ask_{kind}")()
            if found is not None:
                return Question(*found, kind)
        return Question(*self._ask_existence(), "existence")

    def _ask_color(self) -> tuple[str, str] | None:
        phrases = [(phrase, member) for phrase, member in self.single if phrase.color is None]
        if not phrases:
            return None
        phrase, member = self.dice.choice(phrases)
        return f"What color is the {phrase.singular}?", self.things[member].color

    def _ask_count(self) -> tuple[str, str]:
        # Most phrases describe one thing; drawn as they come, "1" would be right too often.
        draw = self.dice.below(100)
        if draw < 15:
            phrase = self.absent_phrase()
        else:
            # "thing" alone always describes several.
            phrase, _ = self.dice.choice(self.several if draw < 75 or not self.single else self.single)
        return f"How many {phrase.plural} are there?", str(len(self.groups.get(phrase, ())))

    def _ask_relation(self) -> tuple[str, str] | None:
        if len({member for _, member in self.single}) < 2:
            return None
        (one, first), (other, second) = self.dice.sample(self.single, 2)
        relation = self.dice.choice(list(RELATIONS))
        if first == second or abs(self._offset(first, second, RELATIONS[relation])) < self.margin:
            return None
        is_so = self._offset(first, second, RELATIONS[relation]) > 0
        return f"Is the {one.singular} {relation} the {other.singular}?", "yes" if is_so else "no"

    def _ask_existence(self) -> tuple[str, str]:
        is_so = self.dice.percent(50)
        phrase = self.dice.choice(list(self.groups)[1:]) if is_so else self.absent_phrase()
        return f"Is there a {phrase.singular}?", "yes" if is_so else "no"


def _weighted(weights: Mapping[str, int], dice: Dice) -> str:
    return dice.choice([name for name, weight in weights.items() for _ in range(weight)])
