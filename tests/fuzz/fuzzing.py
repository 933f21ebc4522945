"""Parts of all fuzzers: how values are broken, what an outcome is, and the process in which an entry point is fuzzed.

python -m tests.fuzz.fuzzing ENTRY COUNT SEED FOLDER   runs one entry of `tests.fuzz.entries` and prints inputs, seconds and memory as JSON.
"""

import copy
import json
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.data.own.test_mutations import VALUES, mutated, nested

MOST_MEMORY = 2**31  # bytes, beyond what the imports take
LONGEST = 60  # seconds of one input


@dataclass
class Case:
    """One input.

    Attributes:
        given: it, for the message of a failure.
        call: runs it.
        names: an error is named if its message holds one of these.
        check: raises if the result is not right.
    """

    given: Any
    call: Callable[[], Any]
    names: tuple[str, ...]
    check: Callable[[Any], None] = field(default=lambda result: None)


def value(rng: random.Random) -> Any:
    """A value that few expect."""
    chosen = rng.choice(VALUES)
    return nested() if chosen == "deep" else copy.deepcopy(chosen)


def broken(content: Any, rng: random.Random) -> Any:
    """A JSON value in which one to three values are others; sometimes it is another value whole, or left as it is."""
    what = rng.random()
    if what < 0.12:
        return value(rng) if what < 0.02 else copy.deepcopy(content)
    try:
        return mutated(content, rng)
    except IndexError:  # nothing is left to break
        return type(content)()


def broken_text(text: str, rng: random.Random) -> bytes:
    """A text that is cut off, has other bytes, or stands twice; often it is left whole."""
    content = text.encode("utf-8", "surrogatepass") if rng.random() < 0.9 else text.encode("utf-16", "surrogatepass")
    return content if rng.random() < 0.7 else broken_bytes(content, rng)


def broken_bytes(content: bytes, rng: random.Random) -> bytes:
    """Bytes of which some are others, are absent, or stand twice."""
    content = bytearray(content)
    what = rng.choice(("flip", "flip", "cut", "insert", "repeat", "number"))
    place = rng.randrange(len(content) + 1)
    if what == "flip":
        for _ in range(rng.choice((1, 1, 2, 8))):
            if content:
                content[rng.randrange(min(len(content), rng.choice((64, 10**9))))] = rng.randrange(256)
    elif what == "cut":
        del content[place : place + rng.choice((1, 4, 10**9))]
    elif what == "insert":
        content[place:place] = rng.choice((b"\0", b"\xff", b"[", b"\t", b"&a ", b"*a", b"!!set ", b"\n", b'"', b"../"))
    elif what == "repeat":
        content *= 2
    else:
        content[place : place + 8] = rng.choice((2**63 - 1, 2**40, 0)).to_bytes(8, "little")
    return bytes(content)


def outcome(case: Case) -> str:
    """Runs a case; "right" or "named". Anything else raises AssertionError."""
    try:
        result = case.call()
    except (ValueError, OSError) as error:
        assert any(name in str(error) for name in case.names), f"not named: {type(error).__name__}: {error}"
        assert "\ud800" not in str(error), "the message cannot be printed"
        return "named"
    case.check(result)
    return "right"


def fuzz(make: Callable[[Path], Callable[[random.Random], Case]], count: int, seed: int, folder: Path) -> dict[str, Any]:
    """Runs so many inputs of an entry.

    Raises:
        AssertionError: an outcome that is neither right nor a named error, with the number of its input, which alone decides it.
    """
    draw = make(folder)
    used = _memory("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MEMORY, resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, _too_long)
    before, start = _memory("VmHWM"), time.process_time()
    outcomes = {"right": 0, "named": 0}
    for number in range(count):
        (folder / "number").write_text(str(number))
        case = draw(random.Random(f"{seed} {number}"))
        signal.alarm(LONGEST)
        try:
            outcomes[outcome(case)] += 1
        except BaseException as error:
            traceback.print_exc()
            raise AssertionError(f"input {number} of seed {seed}: {error!r}, given {case.given!r:.1000}") from error
        finally:
            signal.alarm(0)
    seconds, peak = time.process_time() - start, _memory("VmHWM")
    return {"inputs": count, **outcomes, "seconds": round(seconds, 1), "peak_mb": peak >> 20, "of_inputs_mb": (peak - before) >> 20}


def _too_long(*_: Any) -> None:
    raise AssertionError(f"took more than {LONGEST} s")


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def run_in_process(entry: str, count: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """`fuzz` in a process of its own, whose end by a signal is a failure too."""
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.fuzz.fuzzing", entry, str(count), str(seed), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], env={**os.environ, "TQDM_DISABLE": "1"})
    number = (folder / "number").read_text() if (folder / "number").exists() else "none"
    assert done.returncode == 0, f"{entry}, input {number}, exit status {done.returncode}: {done.stderr[-6000:]}"
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    import warnings

    from tests.fuzz.entries import ENTRIES

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    name, count, seed, folder = sys.argv[1:]
    print(json.dumps(fuzz(ENTRIES[name], int(count), int(seed), Path(folder))))
