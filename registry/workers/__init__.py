"""Worker processes on one port: the supervisor, and communication between workers."""
