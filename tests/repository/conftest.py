"""Fixtures for the tests of the repository's own files."""

import pytest

from tests.repository.files import text_files


@pytest.fixture(scope="session")
def texts() -> dict[str, str]:
    """Return the repository's text files by path."""
    return text_files()
