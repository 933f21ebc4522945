"""Reading of YAML that people write: plain values alone, and what cannot be meant is refused with its line.

Where YAML 1.1 would guess a date, the text stays text. Tags that make other objects than plain values are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_TAG = "tag:yaml.org,2002:"
_PLAIN = {f"{_TAG}{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}
_MOST_BYTES = 2**20
_MOST_VALUES = 100_000  # an alias counts as all that it stands for: nine lists of nine aliases each are 10 ** 9 values
_DEEPEST = 50
_LONGEST_NUMBER = 100  # characters: Python prints no number of more than 4300 digits, and is slow long before


class _PlainLoader(yaml.SafeLoader):
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def read_yaml(text: str, name: str) -> Any:
    """Plain values (None, bool, int, float, str, list, dict) of a text in YAML; None of an empty one.

    Args:
        text: of a file or an option.
        name: of it in messages, before "is no YAML".

    Raises:
        ValueError: no YAML; a key that is there twice; a date, a set or another object; an alias that holds itself; half of a character,
            or a zero byte; more than 1 MiB, 100,000 values (aliases written out), 50 levels, or 100 digits. One line, which names the line
            of the text.
    """
    try:
        loader = _PlainLoader(_checked_length(text))
        node = loader.get_single_node()
        if node is None:
            return None
        _count_values(node, {}, 1)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        place = error.problem_mark or error.context_mark
        where = f"line {place.line + 1}, column {place.column + 1}: " if place else ""
        problem = ", ".join(filter(None, (error.context, error.problem)))
        raise ValueError(f"{name} is no YAML ({where}{problem})") from error
    except RecursionError as error:
        raise ValueError(f"{name} is no YAML (lists or mappings lie too deep in each other)") from error
    except (yaml.YAMLError, ValueError, LookupError) as error:
        raise ValueError(f"{name} is no YAML ({' '.join(str(error).split())})") from error


def read_yaml_file(path: Path) -> Any:
    """Content of a file, see `read_yaml`.

    Raises:
        ValueError: as of `read_yaml`; no UTF-8; a file that may not be read.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"{path}: is no YAML that somebody wrote: it has more than {_MOST_BYTES} bytes")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no text in UTF-8 ({error}); save it as UTF-8") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    return read_yaml(text, f"{path}:")


def line_of_field(path: Path, field: str) -> int | None:
    """Line in which a field of a file begins, from 1; None if the file does not have it. The file was read before."""
    node = yaml.compose(path.read_text(encoding="utf-8-sig"), _PlainLoader)
    keys = [key for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
    return next((key.start_mark.line + 1 for key in keys if key.value == field), None)


def _checked_length(text: str) -> str:
    if len(text) > _MOST_BYTES:
        raise ValueError(f"it has more than {_MOST_BYTES} characters")
    return text


def _count_values(node: yaml.Node, counts: dict[yaml.Node, int | None], depth: int) -> int:
    """Number of values of a node, those behind its aliases included. Refuses what `read_yaml` says."""
    if depth > _DEEPEST:
        raise _refusal(node, f"lists or mappings lie more than {_DEEPEST} deep in each other")
    if node in counts:
        if counts[node] is None:
            raise _refusal(node, "an alias stands for something that holds itself")
        return counts[node]
    if node.tag not in _PLAIN:
        raise _refusal(node, f"{node.tag.removeprefix(_TAG)!r} is no plain value; write text, numbers, lists and mappings")
    counts[node] = None
    if isinstance(node, yaml.ScalarNode):
        _check_scalar(node)
        below = []
    elif isinstance(node, yaml.MappingNode):
        _check_keys(node)
        below = [part for pair in node.value for part in pair]
    else:
        below = node.value
    number = 1 + sum(_count_values(part, counts, depth + 1) for part in below)
    if number > _MOST_VALUES:
        raise _refusal(node, f"there are more than {_MOST_VALUES} values, aliases written out")
    counts[node] = number
    return number


def _check_scalar(node: yaml.ScalarNode) -> None:
    if node.tag in (f"{_TAG}int", f"{_TAG}float") and len(node.value) > _LONGEST_NUMBER:
        raise _refusal(node, f"a number has {len(node.value)} characters")
    if "\0" in node.value or any("\ud800" <= character <= "\udfff" for character in node.value):
        raise _refusal(node, "a text holds a zero byte or half of a character")


def _check_keys(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != f"{_TAG}merge":
            if (key.tag, key.value) in seen:
                raise _refusal(key, f"{key.value!r:.80} is there twice")
            seen.add((key.tag, key.value))


def _refusal(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
