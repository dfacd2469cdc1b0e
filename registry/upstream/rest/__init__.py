"""Calls of operations of REST APIs: requests from arguments, results from answers."""
