"""The packages of the other application, installed once for each release that is tested."""

from pathlib import Path

RELEASES = Path(__file__).parent / "releases"
NAMES = tuple(sorted(path.name for path in RELEASES.iterdir()))
"""Releases of @librechat/data-schemas. Each folder pins all that is installed with it."""
