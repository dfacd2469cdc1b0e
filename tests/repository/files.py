"""The repository as files: its root, and the text files that belong to it."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def text_files() -> dict[str, str]:
    """Return the content of every text file that git tracks or would track, by its path."""
    listed = subprocess.run(
        [  # noqa: S607 - git is where the developer's PATH says
            "git",
            "-c",
            f"safe.directory={ROOT}",
            *("ls-files", "-z", "--cached", "--others", "--exclude-standard"),
        ],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    found = {}
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        # A deleted file stays listed until the deletion is committed.
        content = path.read_bytes() if path.is_file() else b"\0"
        if b"\0" not in content:
            found[name] = content.decode()
    return found
