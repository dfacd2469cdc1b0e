"""The `registry` command; `python -m registry` is the same."""

import atexit
import gc
import signal

COLLECT_AFTER = (50_000, 20, 20)
"""A command imports 150,000 objects that all stay. With the interpreter's thresholds (700, 10 and
10) the garbage collector traverses them repeatedly: a third of a command's start."""


def main() -> None:
    """Run the command line, with fewer garbage collections."""
    gc.set_threshold(*COLLECT_AFTER)
    # The interpreter's shutdown would traverse everything that was imported, without need.
    atexit.register(gc.freeze)
    try:
        from registry.cli import main as command  # noqa: PLC0415 - after the above

        command()
    except KeyboardInterrupt:
        # While libraries are still loaded; later the command itself says so.
        raise SystemExit(128 + signal.SIGINT) from None


if __name__ == "__main__":
    main()
