"""Fixtures of tests that read datasets."""

import datasets
import pytest


@pytest.fixture(autouse=True)
def no_progress_bars():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()
