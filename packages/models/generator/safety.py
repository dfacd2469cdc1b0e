"""A last look at generated text: it may declare, and nothing else.

Schemas may come from a network, and what is written from them is imported later.
"""

import ast

from packages.models.generator.errors import GenerationError
from packages.models.generator.releases import ALL

MODULES = frozenset({"beanie", "pydantic", "pymongo", "typing", "packages.models.fields"})
SIBLINGS = frozenset(published.module for published in ALL)
CALLS = frozenset({"ConfigDict", "Field", "IndexModel"})
NODES = (
    ast.Module,
    ast.ImportFrom,
    ast.alias,
    ast.ClassDef,
    ast.Expr,
    ast.Assign,
    ast.AnnAssign,
    ast.Name,
    ast.Load,
    ast.Store,
    ast.Constant,
    ast.Subscript,
    ast.Tuple,
    ast.List,
    ast.Dict,
    ast.BinOp,
    ast.BitOr,
    ast.UnaryOp,
    ast.USub,
    ast.Call,
    ast.keyword,
)


def require_declarations_only(name: str, text: str) -> None:
    """Check that *text* holds only imports of known modules, classes and their fields.

    Raises:
        GenerationError: It holds something else, or is no Python.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as exc:
        raise GenerationError(f"{name}.py came out as invalid Python") from exc
    for node in ast.walk(tree):
        if not _is_allowed(node):
            kind = type(node).__name__
            raise GenerationError(f"{name}.py came out with code in it ({kind}); nothing written")


def _is_allowed(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module in (MODULES if node.level == 0 else SIBLINGS)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in CALLS
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.ClassDef):
        return not node.decorator_list and not node.keywords
    return isinstance(node, NODES)
