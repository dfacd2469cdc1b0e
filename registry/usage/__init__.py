"""Usage records: one for each call at the gateway."""
