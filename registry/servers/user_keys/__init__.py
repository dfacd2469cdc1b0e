"""Values that each user stores for a server."""
