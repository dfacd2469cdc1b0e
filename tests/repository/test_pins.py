"""The constraints files pin what pyproject.toml asks for."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.repository.files import ROOT

PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", re.MULTILINE)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FILES = ("constraints.txt", "constraints-run.txt", "constraints-runtime.txt")
EXTRAS = PROJECT["optional-dependencies"]


def pins(name: str) -> dict[str, set[str]]:
    """Return the pinned versions by package; some differ between versions of Python."""
    found: dict[str, set[str]] = {}
    for package, version in PIN.findall((ROOT / name).read_text()):
        found.setdefault(canonicalize_name(package), set()).add(version)
    return found


def unmet(requirements: list[str], pinned: dict[str, set[str]]) -> list[str]:
    """Return the requirements that a pin does not fulfil. Our own extras are not pinned."""
    parsed = [Requirement(text) for text in requirements]
    return [
        str(requirement)
        for requirement in parsed
        if requirement.name != PROJECT["name"]
        and not any(
            requirement.specifier.contains(version, prereleases=True)
            for version in pinned.get(canonicalize_name(requirement.name), set())
        )
    ]


def test_every_requirement_is_pinned_for_developers() -> None:
    everything = PROJECT["dependencies"] + [item for extra in EXTRAS.values() for item in extra]

    assert unmet(everything, pins("constraints.txt")) == []


def test_every_requirement_of_the_application_is_pinned_for_the_image() -> None:
    needed = [one for one in PROJECT["dependencies"] if not one.startswith("SecantusDB")]

    assert unmet(needed, pins("constraints-runtime.txt")) == []


def test_every_requirement_of_running_from_a_checkout_is_pinned() -> None:
    assert unmet(PROJECT["dependencies"] + EXTRAS["build"], pins("constraints-run.txt")) == []


def test_the_image_gets_the_versions_that_were_tested() -> None:
    tested = pins("constraints.txt")

    image, checkout = pins("constraints-runtime.txt"), pins("constraints-run.txt")

    assert {name: tested.get(name) for name in image} == image
    assert {name: tested.get(name) for name in checkout} == checkout


@pytest.mark.parametrize("package", ["motor", "secantusdb", "pytest", "mypy", "hatchling"])
def test_the_image_has_no_deprecated_driver_no_gpl_code_and_no_tools(package: str) -> None:
    assert package not in pins("constraints-runtime.txt")


@pytest.mark.parametrize(
    "name", ["constraints.txt", "constraints-run.txt", "constraints-runtime.txt"]
)
def test_every_pin_has_hashes(name: str) -> None:
    text = (ROOT / name).read_text()

    entries = [line for line in text.splitlines() if line and line[0] not in " #"]

    assert [line for line in entries if not PIN.match(line) or not line.endswith("\\")] == []
    assert text.count("--hash=sha256:") > len(entries)


@pytest.mark.parametrize(
    "name", ["constraints.txt", "constraints-run.txt", "constraints-runtime.txt"]
)
def test_pins_do_not_say_where_packages_come_from(name: str) -> None:
    text = (ROOT / name).read_text()

    assert re.search(r"://|--index|--extra-index|--find-links", text) is None


def test_the_build_backend_is_pinned_so_that_installing_fetches_nothing_else() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        needed = tomllib.load(file)["build-system"]["requires"]

    assert unmet([*needed, "editables"], pins("constraints.txt")) == []
