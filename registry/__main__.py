"""The `registry` command; `python -m registry` is the same."""

import atexit
import gc
import signal

COLLECT_AFTER = (50_000, 20, 20)
"""What a command imports is 150,000 objects that all stay. The interpreter's own thresholds
(700, 10 and 10) look through them again and again: a third of a command's start."""


def main() -> None:
    """Run the command line, without looking for garbage where there is none."""
    gc.set_threshold(*COLLECT_AFTER)
    # The interpreter's end looks through everything that was ever imported; nothing else does.
    atexit.register(gc.freeze)
    try:
        from registry.cli import main as command  # noqa: PLC0415 - after the above

        command()
    except KeyboardInterrupt:
        # While libraries are still loaded; later the command itself says so.
        raise SystemExit(128 + signal.SIGINT) from None


if __name__ == "__main__":
    main()
