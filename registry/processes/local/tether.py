"""Run a command that dies with the process that started it.

Executed as a script, `tether.py <parent pid> <command> [argument]...`, then replaced by the
command, whose files are private. It exists because a parent that is killed with SIGKILL cannot
stop its children, and because code between fork and exec inside the parent could deadlock it.
Knows nothing of the registry.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""Linux: signal to receive when the parent's thread ends. Survives execve. Source: prctl(2)."""


def main(arguments: list[str]) -> None:
    """Bind this process to its parent's lifetime if the system can, then execute the command.

    Linux can. Elsewhere the command outlives a killed parent, and its next start ends it.
    """
    parent, *command = arguments
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have died before the call above, and then no signal will come.
    if os.getppid() != int(parent):
        sys.exit(1)
    os.umask(0o077)
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
