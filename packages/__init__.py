"""Code shared with other programs: documents and the database client."""
