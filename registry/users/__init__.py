"""Users and groups, for registries without jarvis-api."""
