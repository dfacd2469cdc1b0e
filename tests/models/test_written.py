"""What this program writes, held against generated classes that fit and that do not."""

from datetime import datetime

import pytest
from pydantic import BaseModel, Field, create_model

from packages import models
from packages.models import SchemaMembersError, _generated, check_schema_version
from packages.models.written import WRITTEN, check_members

GENERATED: dict[str, type[BaseModel]] = {name: getattr(_generated, name) for name in WRITTEN}


def test_the_generated_models_have_all_that_is_written() -> None:
    check_schema_version()


def other_groups(**fields: tuple[object, object]) -> dict[str, type[BaseModel]]:
    known: dict[str, tuple[object, object]] = {
        "name": (str | None, None),
        "description": (str | None, None),
        "source": (str | None, None),
        "member_ids": (list[str] | None, Field(None, alias="memberIds")),
        "created_at": (datetime | None, Field(None, alias="createdAt")),
        "updated_at": (datetime | None, Field(None, alias="updatedAt")),
    }
    wanted = {name: field for name, field in (known | fields).items() if field[0] is not ...}
    return {**GENERATED, "Group": create_model("Group", **wanted)}  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"name": (..., None)}, "Group.name is gone"),
        ({"name": (int | None, None)}, "Group.name has another type"),
        ({"member_ids": (set[str], Field(alias="memberIds"))}, "Group.memberIds has another type"),
        ({"team": (str, ...)}, "Group.team is required and not written"),
    ],
)
def test_a_release_that_breaks_what_is_written_is_refused_in_one_line(
    fields: dict[str, tuple[object, object]], problem: str
) -> None:
    with pytest.raises(SchemaMembersError) as caught:
        check_members(other_groups(**fields), "v9.9.9")

    line = str(caught.value)
    assert line.startswith(f"The models of v9.9.9 do not fit what this program writes: {problem}.")
    assert "\n" not in line


def test_a_class_that_is_gone_is_named() -> None:
    others = {name: model for name, model in GENERATED.items() if name != "PluginAuth"}

    with pytest.raises(SchemaMembersError, match="PluginAuth is gone"):
        check_members(others, "v9.9.9")


def test_each_written_collection_has_its_example() -> None:
    written = {document.__name__ for document in models.DOCUMENTS} - {"AccessRole"}

    assert written <= WRITTEN.keys()
