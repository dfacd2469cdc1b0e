"""What this process is called."""

import os
import socket


def process_name() -> str:
    """Return host and process, as records name who served or read."""
    return f"{socket.gethostname()}:{os.getpid()}"
