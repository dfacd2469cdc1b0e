"""Storage of servers: repositories, and the transactions over them."""
