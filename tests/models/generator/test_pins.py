"""Pinned schemas and their sums."""

from pathlib import Path

import pytest

from packages.models.generator import pins
from packages.models.generator.errors import GenerationError

FILES = {"Token.json": b"{}", "User.json": b"[]"}


def test_what_is_pinned_is_read_back(tmp_path: Path) -> None:
    pins.write_pinned(tmp_path, "v1.2.3", FILES)

    assert pins.read_pinned(tmp_path, "v1.2.3") == FILES


def test_pinning_again_replaces_the_whole_folder(tmp_path: Path) -> None:
    pins.write_pinned(tmp_path, "v1.2.3", FILES)

    pins.write_pinned(tmp_path, "v1.2.3", {"Token.json": b"{ }"})

    assert pins.read_pinned(tmp_path, "v1.2.3") == {"Token.json": b"{ }"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["v1.2.3"]


def test_the_newest_version_comes_first(tmp_path: Path) -> None:
    versions = ["v0.0.9", "v0.0.31", "v0.1.0", "v0.0.4"]
    for version in versions:
        pins.write_pinned(tmp_path, version, FILES)

    assert pins.pinned_versions(tmp_path) == ["v0.1.0", "v0.0.31", "v0.0.9", "v0.0.4"]


def test_an_altered_file_is_refused(tmp_path: Path) -> None:
    pins.write_pinned(tmp_path, "v1.2.3", FILES)
    (tmp_path / "v1.2.3" / "Token.json").write_bytes(b"{ }")

    with pytest.raises(GenerationError, match=r"v1\.2\.3/Token\.json does not match its sum"):
        pins.read_pinned(tmp_path, "v1.2.3")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    pins.write_pinned(tmp_path, "v1.2.3", FILES)
    (tmp_path / "v1.2.3" / "Token.json").unlink()

    with pytest.raises(GenerationError, match=r"v1\.2\.3/Token\.json cannot be read"):
        pins.read_pinned(tmp_path, "v1.2.3")


def test_an_unlisted_file_is_refused(tmp_path: Path) -> None:
    pins.write_pinned(tmp_path, "v1.2.3", FILES)
    (tmp_path / "v1.2.3" / "Group.json").write_bytes(b"{}")

    with pytest.raises(GenerationError, match=r"v1\.2\.3/Group\.json is not listed"):
        pins.read_pinned(tmp_path, "v1.2.3")


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        f"{'0' * 64}  ../../secret.json",
        f"{'0' * 63}  Token.json",
    ],
)
def test_a_malformed_sum_is_refused(tmp_path: Path, line: str) -> None:
    pins.write_pinned(tmp_path, "v1.2.3", FILES)
    sums = tmp_path / "v1.2.3" / "SHA256SUMS"
    sums.write_text(f"{sums.read_text()}{line}\n")

    with pytest.raises(GenerationError, match="malformed line"):
        pins.read_pinned(tmp_path, "v1.2.3")


def test_a_folder_without_sums_is_refused(tmp_path: Path) -> None:
    (tmp_path / "v1.2.3").mkdir()

    with pytest.raises(GenerationError, match="SHA256SUMS cannot be read"):
        pins.read_pinned(tmp_path, "v1.2.3")


def test_a_pin_of_an_unknown_schema_is_refused(tmp_path: Path) -> None:
    pins.write_pinned(tmp_path, "v1.2.3", FILES)
    sums = tmp_path / "v1.2.3" / "SHA256SUMS"
    sums.write_text(f"{sums.read_text()}{'0' * 64}  Unknown.json\n")

    with pytest.raises(GenerationError, match=r"lists Unknown\.json, which is no known schema"):
        pins.read_pinned(tmp_path, "v1.2.3")
