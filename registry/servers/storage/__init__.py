"""Storage of servers: repositories, and lists from memory."""
