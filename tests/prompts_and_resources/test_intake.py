"""What is taken of upstreams' prompts, resources and templates, and what is not."""

from typing import Any

import pytest

from packages.models.states import FeatureKind
from registry.core.definitions import MAX_DEPTH
from registry.prompts_and_resources.intake import MAX_DEFINITION_BYTES, take
from registry.prompts_and_resources.values import Feature, FeatureProblem


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
        ("prompts", "x", FeatureProblem("prompts/", "is not an object")),
        ("prompts", {"name": ""}, FeatureProblem("prompts/", "has no name")),
        ("prompts", {"name": 7}, FeatureProblem("prompts/", "has no name")),
        (
            "prompts",
            {"name": "a\nb"},
            FeatureProblem("prompts/a?b", "has a name with spaces or non-printable characters"),
        ),
        (
            "prompts",
            {"name": "n" * 257},
            FeatureProblem("prompts/" + "n" * 128, "has a name of more than 256 bytes"),
        ),
        (
            "prompts",
            {"name": "p", "arguments": [{"required": True}]},
            FeatureProblem("prompts/p", "has arguments that are not a list of objects with names"),
        ),
        (
            "prompts",
            {"name": "p", "description": 1},
            FeatureProblem("prompts/p", "has a description that is not a string"),
        ),
        (
            "prompts",
            {"name": "p", "description": "x" * MAX_DEFINITION_BYTES},
            FeatureProblem("prompts/p", f"is larger than {MAX_DEFINITION_BYTES} bytes"),
        ),
        (
            "prompts",
            {"name": "p", "description": "\ud800"},
            FeatureProblem("prompts/p", "contains invalid Unicode"),
        ),
        (
            "prompts",
            {"name": "p", "x": float("nan")},
            FeatureProblem("prompts/p", "contains a number that cannot be stored"),
        ),
        (
            "prompts",
            {"name": "p", "x": nested(MAX_DEPTH)},
            FeatureProblem("prompts/p", f"is nested deeper than {MAX_DEPTH} levels"),
        ),
        ("resources", {"name": "A"}, FeatureProblem("resources/", "has no uri")),
        ("resources", {"uri": "a:b"}, FeatureProblem("resources/a:b", "has no name")),
        (
            "resourceTemplates",
            {"uriTemplate": "a:{ b}", "name": "x"},
            FeatureProblem(
                "resourceTemplates/a:{ b}",
                "has a uriTemplate with spaces or non-printable characters",
            ),
        ),
    ],
)
def test_bad_ones_are_reported_and_cost_the_others_nothing(
    member: str, raw: Any, problem: FeatureProblem
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
    assert taken.problems == (
        FeatureProblem("prompts/p", "is listed twice; the first entry is used"),
    )


def test_a_list_that_could_not_be_read_is_a_problem_and_no_empty_list() -> None:
    taken = take({"resources": []}, {"prompts": "It answered: no."})

    assert taken.lists == {FeatureKind.RESOURCE: ()}
    assert taken.problems == (FeatureProblem("prompts", "It answered: no."),)
