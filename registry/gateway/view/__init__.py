"""The in-memory view of the database that every request is answered from."""
