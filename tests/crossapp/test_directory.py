"""Users and groups that we write, the other application's models accept and its rules count."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from bson import ObjectId

from registry.auth.identity import UserContext
from registry.core.clock import SystemClock
from registry.users.repository import UserRepository
from tests.crossapp.other_application import OtherApplication
from tests.fakes.rest import Rest, rest_settings, running

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_rest(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Rest]:
    """Return one real application for all tests here, which keeps users and groups itself."""
    home = tmp_path_factory.mktemp("home")
    settings = rest_settings(mongo_uri, key_files, home, user_directory="registry")
    async with running(settings) as rest:
        yield rest


async def add(rest: Rest, root: UserContext, path: str, **body: object) -> dict[str, Any]:
    answer = await rest.ask(root, "POST", path, json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def test_a_user_passes_the_other_applications_model_and_is_found_by_it(
    rest: Rest, other: OtherApplication, root: UserContext
) -> None:
    added = await add(rest, root, "/users", email="Ada@Example.org", role="admin")

    stored = await rest.parts.database.collection("users").find_one({})
    await other.call("models.User.validate", stored)
    found = await other.call("methods.findUser", {"email": "ada@example.org"})

    assert (str(found["_id"]), found["role"], found["provider"]) == (
        added["id"],
        "ADMIN",
        "registry",
    )


async def test_the_administrator_of_local_mode_passes_it_too(
    rest: Rest, other: OtherApplication
) -> None:
    users = rest.parts.database.collection("users")
    former = {"email": "admin@localhost", "username": "admin", "provider": "local"}
    before = await users.insert_one({**former, "role": "ADMIN", "emailVerified": True})

    user_id = await UserRepository(rest.parts.database).ensure_local_administrator(
        SystemClock().now()
    )

    assert user_id == str(before.inserted_id)
    assert await users.count_documents({}) == 1
    await other.call("models.User.validate", await users.find_one({}))


async def test_a_group_passes_its_model_and_its_members_are_members_there(
    rest: Rest, other: OtherApplication, root: UserContext
) -> None:
    ada = await add(rest, root, "/users", email="ada@example.org")
    ben = await add(rest, root, "/users", email="ben@example.org")
    group = await add(rest, root, "/groups", name="People", members=[ada["id"]])
    # A second one: two groups with a null idOnTheSource would collide in an index of theirs.
    await add(rest, root, "/groups", name="More people")

    for stored in await rest.parts.database.collection("groups").find({}).to_list():
        await other.call("models.Group.validate", stored)
    groups = {
        name: [
            str(principal["principalId"])
            for principal in await other.call("methods.getUserPrincipals", {"userId": user_id})
            if principal["principalType"] == "group"
        ]
        for name, user_id in (("ada", ObjectId(ada["id"])), ("ben", ObjectId(ben["id"])))
    }

    assert groups == {"ada": [group["id"]], "ben": []}
