"""OpenAPI descriptions and what becomes of their operations. Pure: opens no connection."""
