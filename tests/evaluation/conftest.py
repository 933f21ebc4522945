"""Fixtures of tests that evaluate on datasets."""

from tests.data.conftest import no_progress_bars  # noqa: F401
