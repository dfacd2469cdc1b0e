"""What a client that did everything has seen, and what users and models answer it."""

from typing import Any

from tests.fakes.everything.catalog import PROMPTS, RESOURCES, TEMPLATES
from tests.fakes.everything.tools import TOOLS

Report = dict[str, Any]

ENTERED = {
    "username": "ann",
    "email": "ann@example.com",
    "name": "Ann",
    "color": "blue",
    "context": "a test",
}
"""What the user types into a field of this name."""

SAMPLED = "Something."
ROOT = "file:///home/ann"

EVERYTHING: Report = {
    "tools": sorted(TOOLS),
    "echo": "hello",
    "progress": [0, 50, 100],
    "cancelled": True,
    "prompts": sorted(prompt.name for prompt in PROMPTS),
    "prompt": "Prompt with arguments: arg1='a', arg2='b'",
    "asking_prompt": "Use this context: a test",
    "completed": ["paris", "park", "party"],
    "resources": sorted(str(resource.uri) for resource in RESOURCES),
    "templates": [template.uri_template for template in TEMPLATES],
    "resource": "This is the content of the static text resource.",
    "elicited": (
        "Elicitation completed: action=accept, "
        "content={'username': 'ann', 'email': 'ann@example.com'}"
    ),
    "sampled": "LLM response: Something.",
    "roots": ROOT,
    "rounds": "Ann likes blue.",
    "logged": 3,
}


def report_of(*names: str) -> Report:
    """Return what a client has seen that does only these things; without names, everything."""
    return {name: EVERYTHING[name] for name in names or EVERYTHING}
