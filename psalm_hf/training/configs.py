"""Config files by path or, where they ship with the package, by name; and what a command line sets instead."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ..checked_yaml import line_of_field, read_yaml, read_yaml_file
from ..spelling import did_you_mean

IN_A_CLONE = "examples/configs"


def shipped_configs() -> Path:
    """Folder of the configs that ship: `examples/configs` of a clone, `psalm_hf.configs` of an installation."""
    in_a_clone = Path(__file__).parents[2] / IN_A_CLONE
    return in_a_clone if (in_a_clone / "__init__.py").is_file() else Path(str(resources.files("psalm_hf.configs")))


def find_config(name: str | Path, beside: Path | None = None) -> Path:
    """File that is meant by a path, or by the name of a config that ships.

    Args:
        name: a path; or "tiny_shapes", "tiny_shapes.yaml", "examples/configs/tiny_shapes.yaml" for one that ships.
        beside: a folder in which it is looked for too, for files that a config names.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_configs()
    names = {file.name: file for folder in (shipped, beside or shipped) for file in folder.iterdir() if file.suffix in (".yaml", ".json")}
    names |= {Path(file).stem: names[file] for file in names}
    if path.parent.as_posix() in (".", IN_A_CLONE) and path.name in names:
        return names[path.name]
    advice = did_you_mean(path.name, names) or f"; those that ship are {', '.join(sorted(name for name in names if '.' not in name))}"
    raise FileNotFoundError(f"{name}: there is no such file, and no config of that name ships with psalm_hf{advice}")


def read_mapping(config: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> tuple[Path, dict[str, Any]]:
    """Reads a config file; returns its path, and its fields with the overrides.

    Raises:
        FileNotFoundError: see `find_config`.
        ValueError: a file that is no mapping, or whose fields have no names, see also `checked_yaml.read_yaml` and `read_overrides`.
    """
    path = find_config(config)
    given = read_yaml_file(path)
    if not isinstance(given, dict):
        found = "an empty file" if given is None else f"{str(given)[:80]!r}"
        raise ValueError(f"{path}: expected fields and values, got {found}")
    fields = given | (dict(overrides) if isinstance(overrides, Mapping) else read_overrides(overrides))
    if unnamed := [name for name in fields if not isinstance(name, str)]:
        raise ValueError(f"{path}: expected names of fields, got {unnamed[0]!r:.80}{line_in_words(path, str(unnamed[0]))}")
    return path, fields


def line_in_words(path: Path, field: str, overrides: Sequence[str] | Mapping[str, Any] = ()) -> str:
    """Words at the end of a message about a field: " (line 3)"; empty where the file does not have it, or something else overrides it."""
    given = overrides if isinstance(overrides, Mapping) else read_overrides(overrides)
    line = None if field in given else line_of_field(path, field)
    return "" if line is None else f" (line {line})"


def read_overrides(words: Sequence[str]) -> dict[str, Any]:
    """`["--max-steps", "5", "--model={num_queries: 50}"]` -> fields and values, which are read as YAML; dashes are underscores.

    Raises:
        ValueError: words that are no pairs, or a value that is no YAML.
    """
    pairs = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    if len(pairs) % 2 or not all(name.startswith("--") for name in pairs[::2]):
        raise ValueError(f"overrides are pairs `--field value`, got {' '.join(words)}")
    found = {}
    for name, value in zip(pairs[::2], pairs[1::2], strict=True):
        found[name[2:].replace("-", "_")] = read_yaml(value, f"{name} {value:.80}: the value")
    return found
