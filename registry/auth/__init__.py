"""From a bearer token to a UserContext."""
