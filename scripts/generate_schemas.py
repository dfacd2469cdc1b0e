#!/usr/bin/env python3
"""The same as `generate-schemas`, for a fresh clone: it needs no installation of this project."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    # Run as a file, only this folder is on the path.
    sys.path.insert(0, str(ROOT))

from packages.models.generator.command import main  # noqa: E402 - needs the path above

if __name__ == "__main__":
    sys.exit(main())
