"""The one failure of the generator."""


class GenerationError(Exception):
    """Models cannot be generated. The message is one line for the person at the terminal."""
