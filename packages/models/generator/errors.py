"""The generator's one error."""


class GenerationError(Exception):
    """Models cannot be generated. The message is one line for the person at the terminal."""
