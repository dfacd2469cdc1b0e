"""Errors of embedding. None of them reaches a caller: search falls back to words."""

from registry.core.errors import ErrorKind, RegistryError


class ModelUnavailableError(RegistryError):
    """The model is not running: not installed, damaged, being started, or it ended."""

    kind = ErrorKind.UNAVAILABLE

    def __init__(self, model: str, problem: str) -> None:
        super().__init__(f"The embedding model {model} is unavailable: {problem}.")
        self.problem = problem


class EmbeddingFailedError(RegistryError):
    """The model ended while it embedded some texts, or could not embed them."""

    kind = ErrorKind.UNAVAILABLE

    def __init__(self, model: str, problem: str) -> None:
        super().__init__(f"The embedding model {model} failed: {problem}.")
        self.problem = problem
