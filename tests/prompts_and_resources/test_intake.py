"""What is taken of upstreams' prompts, resources and templates, and what is not."""

from typing import Any

import pytest

from packages.models.states import FeatureKind
from registry.core.definitions import MAX_DEPTH, Rejection
from registry.prompts_and_resources.intake import MAX_DEFINITION_BYTES, take
from registry.prompts_and_resources.values import Feature


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"x": value}
    return value


def test_objects_are_taken_as_they_came_and_in_order() -> None:
    taken = take(
        {
            "prompts": [{"name": "b", "x-own": [1, {"$ref": "é"}]}, {"name": "a"}],
            "resources": [{"uri": "file:///a", "name": "A"}],
            "resourceTemplates": [{"uriTemplate": "file:///{x}", "name": "X"}],
        },
        {},
    )

    assert taken.problems == ()
    assert taken.lists == {
        FeatureKind.PROMPT: (
            Feature(FeatureKind.PROMPT, "b", '{"name":"b","x-own":[1,{"$ref":"é"}]}'),
            Feature(FeatureKind.PROMPT, "a", '{"name":"a"}'),
        ),
        FeatureKind.RESOURCE: (
            Feature(FeatureKind.RESOURCE, "file:///a", '{"uri":"file:///a","name":"A"}'),
        ),
        FeatureKind.TEMPLATE: (
            Feature(
                FeatureKind.TEMPLATE, "file:///{x}", '{"uriTemplate":"file:///{x}","name":"X"}'
            ),
        ),
    }


@pytest.mark.parametrize(
    ("member", "raw", "problem"),
    [
        ("prompts", "x", Rejection("prompts/", "is not an object")),
        ("prompts", {"name": ""}, Rejection("prompts/", "has no name")),
        ("prompts", {"name": 7}, Rejection("prompts/", "has no name")),
        (
            "prompts",
            {"name": "a\nb"},
            Rejection("prompts/a?b", "has a name with spaces or non-printable characters"),
        ),
        (
            "prompts",
            {"name": "n" * 257},
            Rejection("prompts/" + "n" * 128, "has a name of more than 256 bytes"),
        ),
        (
            "prompts",
            {"name": "p", "arguments": [{"required": True}]},
            Rejection("prompts/p", "has arguments that are not a list of objects with names"),
        ),
        (
            "prompts",
            {"name": "p", "description": 1},
            Rejection("prompts/p", "has a description that is not a string"),
        ),
        (
            "prompts",
            {"name": "p", "description": "x" * MAX_DEFINITION_BYTES},
            Rejection("prompts/p", f"is larger than {MAX_DEFINITION_BYTES} bytes"),
        ),
        (
            "prompts",
            {"name": "p", "description": "\ud800"},
            Rejection("prompts/p", "contains invalid Unicode"),
        ),
        (
            "prompts",
            {"name": "p", "x": float("nan")},
            Rejection("prompts/p", "contains a number that cannot be stored"),
        ),
        (
            "prompts",
            {"name": "p", "x": nested(MAX_DEPTH)},
            Rejection("prompts/p", f"is nested deeper than {MAX_DEPTH} levels"),
        ),
        ("resources", {"name": "A"}, Rejection("resources/", "has no uri")),
        ("resources", {"uri": "a:b"}, Rejection("resources/a:b", "has no name")),
        (
            "resourceTemplates",
            {"uriTemplate": "a:{ b}", "name": "x"},
            Rejection(
                "resourceTemplates/a:{ b}",
                "has a uriTemplate with spaces or non-printable characters",
            ),
        ),
    ],
)
def test_bad_ones_are_reported_and_cost_the_others_nothing(
    member: str, raw: Any, problem: Rejection
) -> None:
    good: dict[str, Any] = {"name": "good", "uri": "x:good", "uriTemplate": "x:{good}"}

    taken = take({member: [raw, good]}, {})

    assert taken.problems == (problem,)
    assert [len(features) for features in taken.lists.values()] == [1]


def test_the_first_of_two_with_one_key_is_taken() -> None:
    taken = take({"prompts": [{"name": "p", "title": "1"}, {"name": "p", "title": "2"}]}, {})

    assert [item.definition for item in taken.lists[FeatureKind.PROMPT]] == [
        '{"name":"p","title":"1"}'
    ]
    assert taken.problems == (Rejection("prompts/p", "is listed twice; the first entry is used"),)


def test_a_list_that_could_not_be_read_is_a_problem_and_no_empty_list() -> None:
    taken = take({"resources": []}, {"prompts": "It answered: no."})

    assert taken.lists == {FeatureKind.RESOURCE: ()}
    assert taken.problems == (Rejection("prompts", "It answered: no."),)
