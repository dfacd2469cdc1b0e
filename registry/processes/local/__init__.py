"""Local mode: an embedded database, generated keys and a demo server in one home folder."""
