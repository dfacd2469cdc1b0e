"""Search over tools, servers and catalog entries, from memory: by words, and by vectors."""
