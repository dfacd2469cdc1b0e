"""Whether servers can be reached right now: in memory, fed by what really happens to them."""
