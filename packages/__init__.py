"""Code without knowledge of the registry: documents, and the database client."""
