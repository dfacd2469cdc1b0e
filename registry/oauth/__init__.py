"""Users' own access to servers: flows of authorization, their tokens, and refreshing them."""
