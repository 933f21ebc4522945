"""Config files by path or, where they ship with the package, by name; and what a command line sets instead."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

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
        ValueError: a file that is no mapping, see also `read_overrides`.
    """
    path = find_config(config)
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: is no YAML ({error})") from error
    if not isinstance(given, dict):
        raise ValueError(f"{path}: expected fields and values, got {str(given)[:80]!r}")
    return path, given | (dict(overrides) if isinstance(overrides, Mapping) else read_overrides(overrides))


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
        try:
            found[name[2:].replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"{name} {value}: the value is no YAML ({' '.join(str(error).split())})") from error
    return found
