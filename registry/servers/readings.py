"""What readings of upstreams show of the connections that they were made over."""

from registry.connections.tracker import ConnectionTracker
from registry.servers.credentials import is_user_level
from registry.servers.outcome import Reading
from registry.servers.values import ServerRecord


def note_reading(
    connections: ConnectionTracker,
    server: ServerRecord,
    reading: Reading | None,
    user_id: str,
    *,
    is_told: bool,
) -> None:
    """Take note of a reading that is stored.

    Args:
        connections: Where to.
        server: As it is stored by now.
        reading: What came of it; None when nobody read.
        user_id: With whose credentials, where users bring their own.
        is_told: Whether the server's document says so already.
    """
    if reading is None:
        return
    about = server.id, server.updated_at, user_id if is_user_level(server.config) else None
    if reading.found is not None:
        connections.was_read(*about, is_told=is_told)
    elif reading.failure is not None and reading.is_callers_own:
        connections.refused(*about, reading.failure)
    elif reading.failure is not None:
        connections.was_not_read(*about, reading.failure)
