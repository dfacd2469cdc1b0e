"""Generated text may declare and nothing else."""

import pytest

from packages.models.generator.errors import GenerationError
from packages.models.generator.safety import require_declarations_only


@pytest.mark.parametrize(
    "text",
    [
        "import os",
        "from os import system",
        "from pydantic.v1 import BaseModel",
        "from ..errors import x",
        "print('hello')",
        "class A:\n    x: int = open('/etc/passwd')",
        "class A:\n    x: int = Field(default=().__class__)",
        "class A:\n    def f(self): ...",
        "@decorator\nclass A: ...",
        "class A(metaclass=M): ...",
        "x = [y for y in z]",
        "x = f'{y}'",
        "x = lambda: 1",
        "if True:\n    x = 1",
        "class A(",
    ],
)
def test_code_is_refused(text: str) -> None:
    with pytest.raises(GenerationError):
        require_declarations_only("token", text)


def test_declarations_are_accepted() -> None:
    require_declarations_only(
        "token",
        "from pydantic import BaseModel, Field\n"
        "from .mcpconfig import MCPConfig\n"
        "class A(BaseModel):\n"
        "    'text'\n"
        "    x: Annotated[int | None, Field(ge=-1)] = None\n",
    )
