"""OAuth client: discovers authorization servers, registers with them, obtains tokens from them."""
