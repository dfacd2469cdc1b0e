"""The `registry` command: one module a group of commands.

Commands import what they need inside of their functions, so that none waits for the libraries of
another.
"""

# First, and from here: what it imports is most of a start, and imports that begin deeper in other
# imports run at an edge of the interpreter's stack (16 kB chunks) that is mapped again each time.
import registry.cli.running  # noqa: F401 - a tenth of the start of `python -m registry`
from registry.cli.command import app, main

__all__ = ["app", "main"]
