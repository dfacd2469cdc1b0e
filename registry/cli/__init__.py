"""The `registry` command: one module a group of commands.

What its commands need is imported inside of them, so that none waits for another's libraries.
"""

# First, and from here: what it imports is most of a start, and imports that begin deeper in other
# imports run at an edge of the interpreter's stack (16 kB chunks) that is mapped anew each time.
import registry.cli.running  # noqa: F401 - a tenth of the start of `python -m registry`
from registry.cli.command import app, main

__all__ = ["app", "main"]
