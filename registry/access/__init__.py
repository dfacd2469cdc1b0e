"""Access control: rights on servers, sharing, and policies for single tools."""
