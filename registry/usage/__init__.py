"""Who called what, when, and how it went: one record for each call at the gateway."""
