"""The canonical table of registered tools."""
