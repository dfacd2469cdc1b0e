"""OpenAPI descriptions, small enough to be read."""

import json
from typing import Any


def described(
    paths: dict[str, Any] | None = None, *, server: str = "http://127.0.0.1:9", **members: Any
) -> dict[str, Any]:
    """Return a description of an API with these paths, by default of a shop for pets."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Pets", "version": "1"},
        "servers": [{"url": server}],
        "paths": PETS if paths is None else paths,
        **members,
    }


def document(paths: dict[str, Any] | None = None, **members: Any) -> str:
    """Return the same as JSON text."""
    return json.dumps(described(paths, **members))


PETS: dict[str, Any] = {
    "/pets": {
        "get": {
            "operationId": "listPets",
            "summary": "List pets",
            "tags": ["pets"],
            "parameters": [
                {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1}}
            ],
            "responses": {
                "200": {
                    "description": "All pets.",
                    "content": {
                        "application/json": {
                            "schema": {"type": "array", "items": {"type": "object"}}
                        }
                    },
                }
            },
        },
        "post": {
            "operationId": "addPet",
            "summary": "Add a pet",
            "tags": ["pets"],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "properties": {
                                "name": {"type": "string"},
                                "tag": {"type": "string"},
                            },
                            "required": ["name"],
                        }
                    }
                },
            },
            "responses": {"201": {"description": "Added."}},
        },
    },
    "/pets/{petId}": {
        "parameters": [
            {"name": "petId", "in": "path", "required": True, "schema": {"type": "string"}}
        ],
        "get": {
            "operationId": "showPet",
            "summary": "Show a pet",
            "responses": {"200": {"description": "A pet."}},
        },
        "delete": {
            "operationId": "removePet",
            "summary": "Remove a pet",
            "responses": {"204": {"description": "Removed."}},
        },
    },
}
