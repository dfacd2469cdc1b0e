"""A process that has loaded the `registry` command and forks one for each start.

Loading is most of what a command costs, and tests start hundreds. What is forked is a process
like any other: with arguments, environment, folder, signals and exit code of its own. Executed
as a script, `fork_server.py <control socket>`; `tests.fakes.command` asks it. Ends with whoever
started it.
"""

import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import sys
import tempfile

REQUEST_BYTES = 256 * 1024
FILES = 4
"""Standard input, output and error, and where the process id and the exit code are sent."""


def load() -> None:
    """Import what commands import, each when it needs it."""
    # Otherwise the linear algebra of numpy starts a thread for each processor.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # noqa: TID251 - read by a library, not by us
    import registry

    for module in pkgutil.walk_packages(registry.__path__, "registry."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    threads = os.listdir("/proc/self/task")  # noqa: PTH208 - names are all that is asked for
    assert len(threads) == 1, "a thread would be missing in what is forked"
    gc.collect()
    gc.freeze()


def serve(control: socket.socket) -> None:
    """Fork for each request. Returns in each fork, which is then to run the command."""
    # Whom nobody waits for must not stay as a zombie.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        request, files, _, _ = socket.recv_fds(control, REQUEST_BYTES, FILES)
        if not request:
            sys.exit()
        if os.fork() == 0:
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            *standard, status = files
            command = os.fork()
            if command == 0:
                os.close(status)
                _become(json.loads(request), standard)
                return
            _attend(command, socket.socket(fileno=status))
        for file in files:
            os.close(file)


def _attend(command: int, status: socket.socket) -> None:
    """Tell who the command is and how it ended."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    status.sendall(str(command).encode())
    _, how = os.waitpid(command, 0)
    status.sendall(str(os.waitstatus_to_exitcode(how)).encode())
    os._exit(0)


def _become(request: dict[str, object], standard: list[int]) -> None:
    folder, environment, arguments = (
        request[name] for name in ("folder", "environment", "arguments")
    )
    assert isinstance(environment, dict)
    assert isinstance(arguments, list)
    for number, file in enumerate(standard):
        os.dup2(file, number)
        os.close(file)
    os.chdir(str(folder))
    os.environ.clear()  # noqa: TID251 - given to the command
    os.environ.update(environment)  # noqa: TID251 - likewise
    # Found out once, from the environment.
    tempfile.tempdir = None
    sys.path.insert(0, "")
    sys.argv[1:] = arguments


if __name__ == "__main__":
    control_socket = socket.socket(fileno=int(sys.argv[1]))
    sys.argv = ["-c"]
    load()
    serve(control_socket)

    from registry.__main__ import main

    main()
