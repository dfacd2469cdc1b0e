"""Discovery of an upstream's tools and their reconciliation with stored rows."""
