"""Tools as governed records: who sees them, who decides about them, and their history."""
