"""Where recorded numbers and real samples lie, and the skips for machines without them.

`PSALM_GOLDEN`, `PSALM_EVAL_CASES` and `PSALM_SAMPLES` name other folders of the same format.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Workers of pytest-xdist share the cores; said before torch is loaded, and to the processes that tests start.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))))

SHARED = Path(__file__).resolve().parents[2] / "shared"
GOLDEN = Path(os.environ.get("PSALM_GOLDEN", SHARED / "golden"))
EVAL_CASES = Path(os.environ.get("PSALM_EVAL_CASES", SHARED / "eval"))
SAMPLES = Path(os.environ.get("PSALM_SAMPLES", SHARED / "data"))

FOLDERS = {"golden": (GOLDEN, "PSALM_GOLDEN"), "evaluators": (EVAL_CASES, "PSALM_EVAL_CASES"), "samples": (SAMPLES, "PSALM_SAMPLES")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark, (folder, variable) in FOLDERS.items():
            if item.get_closest_marker(mark) and not folder.is_dir():
                item.add_marker(pytest.mark.skip(reason=f"{folder} is absent; {variable} names a folder of the same format"))


@pytest.fixture(scope="session")
def tiny_checkpoint() -> Path:
    """Folder of psalm-tiny, for tests of what its trained weights do."""
    import psalm_hf

    try:
        return psalm_hf.tiny_checkpoint()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread of torch in this process, as the other processes of a test have: another number rounds otherwise."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
