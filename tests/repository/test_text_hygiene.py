"""What no file of the repository may contain.

Needles are built from pieces, or they would be found here.
"""

import ast
import re

REGISTRY_HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("yarnpkg", "com"),
        ("proxy", "golang", "org"),
        ("static", "crates", "io"),
        ("deb", "debian", "org"),
    )
)
MACHINE_PATH = re.compile(r"(?<![\w.~*-])/(?:" + "|".join(("wo" + "rk", "ro" + "ot")) + r")/")
EMOJI = re.compile("[\u2600-\u27bf\u2b50\u2b55\ufe0f\U0001f000-\U0001faff]")
UNFINISHED = re.compile(r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")
MOCKS = "unittest" + ".mock"


def test_no_file_names_a_package_registry(texts: dict[str, str]) -> None:
    offenders = [
        name
        for name, text in texts.items()
        if any(host in text.lower() for host in REGISTRY_HOSTS)
    ]

    assert offenders == []


def test_no_file_names_a_folder_of_one_machine(texts: dict[str, str]) -> None:
    offenders = [name for name, text in texts.items() if MACHINE_PATH.search(text)]

    assert offenders == []


def test_code_and_documents_have_no_emoji(texts: dict[str, str]) -> None:
    # Tests need them as input.
    offenders = [
        name
        for name, text in texts.items()
        if not name.startswith("tests/") and EMOJI.search(text)
    ]

    assert offenders == []


def test_nothing_is_marked_as_unfinished(texts: dict[str, str]) -> None:
    # Rules about such marks have to name them.
    offenders = [
        name
        for name, text in texts.items()
        if name != "pyproject.toml" and "/data/" not in name and UNFINISHED.search(text)
    ]

    assert offenders == []


def test_no_test_replaces_parts_by_mocks(texts: dict[str, str]) -> None:
    imports = {
        f"{name}: {module}"
        for name, text in texts.items()
        if name.endswith(".py") and "mock" in text
        for module in _imported(text)
    }

    assert [entry for entry in imports if MOCKS in entry] == []


def test_every_file_ends_with_one_line_end(texts: dict[str, str]) -> None:
    offenders = [
        name
        for name, text in texts.items()
        if "/data/" not in name and text and (not text.endswith("\n") or text.endswith("\n\n"))
    ]

    assert offenders == []


def test_lines_end_as_on_unix_and_without_blanks(texts: dict[str, str]) -> None:
    offenders = [
        name
        for name, text in texts.items()
        if "/data/" not in name and re.search(r"[ \t\r]$", text, re.MULTILINE)
    ]

    assert offenders == []


def _imported(source: str) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules
