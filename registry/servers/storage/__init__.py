"""What is stored of servers: repositories, and the transactions over them."""
