"""Registered REST APIs: servers whose tools are made of the operations of a description."""
