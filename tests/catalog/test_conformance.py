"""What `/v0.1/servers` serves fits the schema that it names, whatever was imported."""

import gzip
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from registry.catalog.formats import ReadEntry, entries_in
from registry.catalog.subregistry.conformance import SCHEMA, conforming

FILES = Path(__file__).parents[1] / "data" / "registries"
TEXT = {"type": "string"}
URI = {"type": "string", "format": "uri"}
FLAG = {"type": "boolean"}
INPUT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "choices": {"type": "array", "items": TEXT},
        **dict.fromkeys(("default", "description", "placeholder", "value"), TEXT),
        "format": {"enum": ["string", "number", "boolean", "filepath"]},
        "isRequired": FLAG,
        "isSecret": FLAG,
        "variables": {"type": "object", "additionalProperties": {"$ref": "#/$defs/input"}},
    },
}
NAMED = {"allOf": [INPUT, {"required": ["name"], "properties": {"name": TEXT}}]}
POSITIONAL = {
    "required": ["type"],
    "properties": {"type": {"const": "positional"}, "valueHint": TEXT, "isRepeated": FLAG},
    "anyOf": [{"required": ["valueHint"]}, {"required": ["value"]}],
}
FLAGGED = {
    "required": ["type", "name"],
    "properties": {"type": {"const": "named"}, "name": TEXT, "isRepeated": FLAG},
}
ARGUMENTS = {
    "type": "array",
    "items": {"anyOf": [{"allOf": [INPUT, POSITIONAL]}, {"allOf": [INPUT, FLAGGED]}]},
}
OVER_HTTP = {
    "type": "object",
    "required": ["type", "url"],
    "properties": {
        "type": {"enum": ["streamable-http", "sse"]},
        "url": {
            "type": "string",
            "pattern": r"^(https?://[^\s]+|\{[a-zA-Z_][a-zA-Z0-9_]*\}[^\s]*)$",
        },
        "headers": {"type": "array", "items": NAMED},
        "variables": {"type": "object", "additionalProperties": {"$ref": "#/$defs/input"}},
    },
}
PACKAGE = {
    "type": "object",
    "required": ["registryType", "identifier", "transport"],
    "properties": {
        **dict.fromkeys(("registryType", "identifier", "runtimeHint"), TEXT),
        "registryBaseUrl": URI,
        "fileSha256": {"type": "string", "pattern": "^[a-f0-9]{64}$"},
        "version": {"type": "string", "minLength": 1, "not": {"const": "latest"}},
        "environmentVariables": {"type": "array", "items": NAMED},
        "packageArguments": ARGUMENTS,
        "runtimeArguments": ARGUMENTS,
        "transport": {
            "anyOf": [
                OVER_HTTP,
                {"required": ["type"], "properties": {"type": {"const": "stdio"}}},
            ]
        },
    },
}
RULES = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$defs": {"input": INPUT},
    "type": "object",
    "required": ["name", "description", "version"],
    "properties": {
        "name": {
            "type": "string",
            "minLength": 3,
            "maxLength": 200,
            "pattern": "^[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+$",
        },
        "description": {"type": "string", "minLength": 1, "maxLength": 100},
        "title": {"type": "string", "minLength": 1, "maxLength": 100},
        "version": {"type": "string", "minLength": 1, "maxLength": 255},
        "websiteUrl": URI,
        "repository": {
            "type": "object",
            "required": ["url", "source"],
            "properties": {"url": URI, **dict.fromkeys(("source", "id", "subfolder"), TEXT)},
        },
        "icons": {"type": "array", "items": {"required": ["src"], "properties": {"src": URI}}},
        "packages": {"type": "array", "items": PACKAGE},
        "remotes": {"type": "array", "items": OVER_HTTP},
        "_meta": {"type": "object", "additionalProperties": {"type": "object"}},
    },
}
"""The rules of the schema of 2025-12-11, in our own words."""

FITS = jsonschema_rs.validator_for(RULES, validate_formats=True)
REMOTE = {"type": "streamable-http", "url": "https://a.example/mcp"}
KEY = {"name": "KEY", "is_required": "true", "is_secret": True, "default": 7, "format": "secret"}
OLD_PACKAGE = {
    "registryType": "npm",
    "identifier": "a",
    "version": "",
    "transport": {},
    "environmentVariables": [KEY],
    "packageArguments": [{"type": "positional", "value_hint": "path"}, {"name": "--x"}, {}],
}


def served(**document: Any) -> tuple[Any, list[str]]:
    shown, problems = conforming({"name": "io.example/a", "version": "1.0.0", **document})
    return shown, list(problems)


@pytest.mark.parametrize(
    "name",
    [
        "docker_npm_registry_servers.json",
        "toolhive_upstream_registry.json",
        "official_seed_2025_05_16.json",
    ],
)
def test_every_entry_of_the_real_lists_is_served_and_fits(name: str) -> None:
    entries = entries_in(gzip.decompress((FILES / f"{name}.gz").read_bytes())).read()
    documents = [one.content.document for one in entries if isinstance(one, ReadEntry)]

    shown = [conforming(document)[0] for document in documents]

    assert all(one is not None for one in shown)
    assert [error.message for one in shown for error in FITS.iter_errors(one)] == []


@pytest.mark.parametrize(
    "document",
    [
        {"description": "", "title": "x" * 300, "websiteUrl": "nowhere", "version": ""},
        {"description": 7, "repository": {"url": ""}, "remotes": [REMOTE], "_meta": {"a": 1}},
        {"repository": {"url": "https://github.com/a/b", "id": 7}, "icons": [{}, {"src": "x:y"}]},
        {"packages": [OLD_PACKAGE]},
        {"packages": [{**OLD_PACKAGE, "transport": {"type": "sse"}}], "version": "latest"},
        {"remotes": [{**REMOTE, "type": "http", "variables": {"a": {"choices": [1, "b"]}}}]},
        {"remotes": [{**REMOTE, "headers": [{"name": "A", "value": "{b}", "variables": 7}]}]},
    ],
)
def test_older_forms_and_mistakes_are_converted(document: dict[str, Any]) -> None:
    shown, _ = served(**document)

    assert shown["$schema"] == SCHEMA
    assert [error.message for error in FITS.iter_errors(shown)] == []


def test_what_an_input_says_is_kept() -> None:
    shown, problems = served(packages=[OLD_PACKAGE])

    (package,) = shown["packages"]
    assert problems == []
    assert package["environmentVariables"] == [
        {"name": "KEY", "isRequired": True, "isSecret": True, "default": "7"}
    ]
    assert package["packageArguments"] == [
        {"type": "positional", "valueHint": "path"},
        {"type": "named", "name": "--x"},
        {"type": "positional", "valueHint": "argument"},
    ]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (
            {"packages": [{**OLD_PACKAGE, "registryType": "unknown"}]},
            "packages[0] is of no known kind of registry",
        ),
        (
            {"packages": [{**OLD_PACKAGE, "fileSha256": "x"}]},
            "packages[0] has a fileSha256 that is none",
        ),
        ({"remotes": [{"type": "carrier-pigeon", "url": "https://a.example"}]}, "remotes[0] has"),
        ({"remotes": [{"type": "sse", "url": "mailto:a"}]}, "remotes[0] has a URL"),
        ({"remotes": [{**REMOTE, "headers": [{}]}]}, "remotes[0] headers has one without a name"),
    ],
)
def test_what_cannot_be_converted_is_left_out_with_the_reason(
    document: dict[str, Any], reason: str
) -> None:
    shown, problems = served(**document)

    assert not {"packages", "remotes"} & shown.keys()
    assert [error.message for error in FITS.iter_errors(shown)] == []
    assert problems[0].startswith(reason)


def test_a_name_of_another_form_costs_the_document() -> None:
    assert served(name="a b/c") == (None, ["name is not of the form namespace/name"])
