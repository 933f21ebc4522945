"""Pages of the documentation taken apart: fenced blocks, commands, links."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md")))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\n\n?\Z", re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: the word behind the first fence, "" where there is none.
        line: number of the first line of `text` in the page, from 1.
        not_run: the reason in the comment `<!-- not run: REASON -->` before the block; None = the block runs.
    """

    page: str
    language: str
    text: str
    line: int
    not_run: str | None = None


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str | None = None) -> list[Block]:
    """Fenced blocks of a page in order; all fences are read in turn, so that none is taken for its opposite."""
    text, found = read(page), []
    for match in FENCE.finditer(text):
        reason = NOT_RUN.search(text[: match.start()])
        line = text.count("\n", 0, match.start()) + 2
        found.append(Block(page, match[1], match[2], line, reason and " ".join(reason[1].split())))
    return [block for block in found if language in (None, block.language)]


def prose(page: str) -> str:
    """Text of a page without its fenced blocks."""
    return FENCE.sub("", read(page))


def shell_lines(page: str) -> list[str]:
    """Commands of the blocks `bash`, `console` and without a language, one a line, without comments."""
    lines = [line for block in blocks(page) if block.language in ("bash", "console", "") for line in block.text.splitlines()]
    return [part.strip() for line in lines for part in line.split("&&") if command_in(part)]


def mentioned_commands(page: str) -> list[str]:
    """Commands that the text names between backticks; some leave out what is required."""
    spans = re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(page))
    return [" ".join(span.split()) for span in spans if command_in(span)]


def command_in(text: str) -> tuple[str, list[str]] | None:
    """A verb of `psalm` or the path of a script, and its arguments; None where the text is no command of this repository."""
    if not re.search(r"^(psalm [a-z]|\S*psalm_hf\.cli|.*\b(examples|data_scripts)/\w+\.py|.*-m psalm_hf\.cli\.\w+)", text.strip()):
        return None
    try:
        words = shlex.split(text, comments=True)
    except ValueError:
        return None
    words = [word for word in words if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    if words[:1] == ["psalm"]:
        return words[1], words[2:]
    for number, word in enumerate(words):
        if re.fullmatch(r"(examples|data_scripts)/\w+\.py", word):
            return word, words[number + 1 :]
        if word.startswith("psalm_hf.cli.") and words[number - 1] == "-m":
            return word.rpartition(".")[2].replace("_", "-"), words[number + 1 :]
    return None


def anchors(page: str) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-") for heading in headings}
