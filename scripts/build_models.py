"""Hatchling's hook for wheels: generates the models that they hold, from the pinned schemas.

None are generated for an editable installation: `make` does it, again when a schema changes.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from typing_extensions import override

ROOT = Path(__file__).resolve().parent.parent


class ModelsHook(BuildHookInterface[Any]):
    """Runs the generator before a wheel is built."""

    @override
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Generate the models, unless the installation only points to this folder."""
        if version == "editable":
            return
        # In a process of its own: what it imports is not the builder's.
        subprocess.run(
            [sys.executable, "-m", "packages.models.generator.command"], cwd=ROOT, check=True
        )
