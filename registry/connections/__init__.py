"""Connection state of servers: in memory, derived from actual calls, never stored."""
