"""The command that generates the models, as an operator runs it."""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from bson import ObjectId

from packages.models import SCHEMA_VERSION
from packages.models.generator import command
from packages.models.generator.pipeline import PINNED_SCHEMAS
from tests.models.release_server import Reply, start_release_server
from tests.repository.files import ROOT

SCRIPT = ROOT / "scripts/generate_schemas.py"
RAW_OPTIONS = Path(__file__).parent.parent / "models" / "data" / "raw_MCPOptions.json"
MANDATORY = ["MCPOptions.json", "MCPServerDocument.json", "Token.json"]
MODULES = [
    "accessrole.py",
    "aclentry.py",
    "group.py",
    "mcpconfig.py",
    "mcpserver.py",
    "pluginauth.py",
    "token.py",
    "user.py",
]


@pytest.fixture
def schemas(tmp_path: Path) -> Path:
    """Return a copy of the pinned schemas."""
    return Path(shutil.copytree(PINNED_SCHEMAS, tmp_path / "schemas"))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Return where to generate; not there yet."""
    return tmp_path / "out"


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Return a folder with the mandatory files of v0.0.32."""
    folder = tmp_path / "release"
    folder.mkdir()
    for name in MANDATORY:
        schema = json.loads((PINNED_SCHEMAS / SCHEMA_VERSION / name).read_bytes())
        schema["x-generated"]["version"] = "0.0.32"
        (folder / name).write_text(json.dumps(schema))
    return folder


def run(schemas: Path, output: Path, *arguments: str) -> int:
    return command.main(["--schemas", str(schemas), "--output", str(output), *arguments])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def imported(folder: Path) -> ModuleType:
    """Import a generated package from where it is, under a name of its own."""
    name = f"generated_{uuid.uuid4().hex}"
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.requirement("R-310")
def test_the_pinned_release_is_generated(schemas: Path, output: Path) -> None:
    code = run(schemas, output)

    assert code == 0
    assert sorted(contents(output)) == sorted(
        [*MODULES, "__init__.py", "README.md", ".schema-version"]
    )
    assert (output / ".schema-version").read_text() == "v0.0.31\n"
    assert imported(output).__version__ == "v0.0.31"


@pytest.mark.requirement("R-310")
def test_processes_with_other_hashes_and_folders_write_the_same(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.black]\nline-length = 40\n")
    runs = [("1", tmp_path), ("4242", Path.cwd())]

    for seed, folder in runs:
        subprocess.run(
            [sys.executable, "-W", "error", str(SCRIPT), "--output", str(tmp_path / seed)],
            cwd=folder,
            env={**os.environ, "PYTHONHASHSEED": seed},  # noqa: TID251 - for a child process
            check=True,
            capture_output=True,
            timeout=60,
        )

    assert contents(tmp_path / "1") == contents(tmp_path / "4242")
    assert contents(tmp_path / "1")[".schema-version"] == b"v0.0.31\n"


@pytest.mark.requirement("R-314")
def test_the_readme_that_is_kept_in_git_is_left_as_it_is(schemas: Path, output: Path) -> None:
    run(schemas, output)

    kept = command.OUTPUT / "README.md"
    assert (output / "README.md").read_bytes() == kept.read_bytes()


@pytest.mark.requirement("R-314")
def test_check_accepts_what_was_just_generated(schemas: Path, output: Path) -> None:
    run(schemas, output)

    assert run(schemas, output, "--check") == 0


@pytest.mark.requirement("R-314")
def test_check_refuses_a_folder_without_models(
    schemas: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(schemas, output, "--check")

    assert code == 1
    assert complaint(capsys) == (
        f"generate-schemas: {output} holds no generated models; run generate-schemas"
    )
    assert not output.exists()


@pytest.mark.requirement("R-314")
@pytest.mark.parametrize("name", ["token.py", "__init__.py", "README.md"])
def test_check_refuses_an_edited_file(
    schemas: Path, output: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run(schemas, output)
    (output / name).write_text("edited")
    capsys.readouterr()

    code = run(schemas, output, "--check")

    assert code == 1
    assert f"{name} differs from what is generated" in complaint(capsys)
    assert (output / name).read_text() == "edited"


def test_modules_that_are_no_longer_generated_are_removed(schemas: Path, output: Path) -> None:
    output.mkdir()
    (output / "gone.py").write_text('"""Generated from Gone.json of @jarvis 0.0.1."""\n')
    (output / "ours.py").write_text('"""Written by hand."""\n')

    run(schemas, output)

    assert not (output / "gone.py").exists()
    assert (output / "ours.py").exists()


@pytest.mark.requirement("R-310")
def test_an_altered_pin_is_refused_and_nothing_is_written(
    schemas: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pinned = schemas / "v0.0.31" / "Token.json"
    pinned.write_bytes(pinned.read_bytes() + b"\n")

    code = run(schemas, output)

    assert code == 1
    assert complaint(capsys) == (
        "generate-schemas: v0.0.31/Token.json does not match its sum in SHA256SUMS"
    )
    assert not output.exists()


@pytest.mark.requirement("R-310")
def test_another_release_is_pinned_completed_and_generated(
    schemas: Path, output: Path, release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(schemas, output, "--version", "v0.0.32", "--source", str(release))

    told = capsys.readouterr().out
    assert code == 0
    assert "User.json is not part of v0.0.32; taken from v0.0.31" in told
    assert "this program expects v0.0.31 and will not start with v0.0.32" in told
    assert (output / ".schema-version").read_text() == "v0.0.32\n"
    assert imported(output).MCPServer.model_config["json_schema_extra"]["version"] == "0.0.32"


@pytest.mark.requirement("R-311")
def test_without_a_version_the_one_of_the_folder_is_generated_from_its_pins(
    schemas: Path, output: Path, release: Path
) -> None:
    run(schemas, output, "--version", "0.0.32", "--source", str(release))
    before = contents(output)
    shutil.rmtree(release)
    (output / "token.py").unlink()

    code = run(schemas, output)

    assert code == 0
    assert contents(output) == before


@pytest.mark.requirement("R-318")
def test_a_file_of_another_version_is_refused_and_nothing_is_written(
    schemas: Path, output: Path, release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(schemas)

    code = run(schemas, output, "--version", "v0.0.33", "--source", str(release))

    assert code == 1
    assert complaint(capsys) == (
        "generate-schemas: MCPOptions.json is of version 0.0.32, not of v0.0.33; nothing written"
    )
    assert everything(schemas) == before
    assert not output.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Token.json is not valid JSON"),
        ("[]", "Token.json is no JSON object"),
        ("[" * 100_000, "Token.json is not valid JSON"),
        ('{"properties": {}}', "Token.json does not describe expiresAt, token, userId"),
        ('{"x-generated": {"version": 32}}', "the x-generated block of Token.json is malformed"),
        ('{"x-generated": {"version": "0.0.32"}}', "Token.json describes no object"),
        (
            '{"title": "Token", "properties": {"a": {}}, "x-generated": {"version": "0.0.32"}}',
            "Token.json does not describe expiresAt, token, userId",
        ),
    ],
)
def test_a_broken_file_is_refused_and_nothing_is_written(
    schemas: Path,
    output: Path,
    release: Path,
    capsys: pytest.CaptureFixture[str],
    content: str,
    message: str,
) -> None:
    before = everything(schemas)
    (release / "Token.json").write_text(content)

    code = run(schemas, output, "--version", "v0.0.32", "--source", str(release))

    assert code == 1
    assert capsys.readouterr().err == f"generate-schemas: {message}\n"
    assert everything(schemas) == before
    assert not output.exists()


def test_a_file_that_does_not_say_its_version_is_refused_until_somebody_does(
    schemas: Path, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    shutil.copy(RAW_OPTIONS, folder / "MCPOptions.json")

    refused = run(schemas, output, "--source", str(folder))
    told = capsys.readouterr().err
    code = run(schemas, output, "--source", str(folder), "--version", "v0.0.31")

    assert (refused, code) == (1, 0)
    assert told == (
        "generate-schemas: MCPOptions.json has no x-generated block, so its version is unknown; "
        "say it with --version\n"
    )
    assert "Token.json is not given; taken from the pinned v0.0.31" in capsys.readouterr().out
    assert imported(output).MCPConfig.model_config["json_schema_extra"]["version"] == "0.0.31"


@pytest.mark.parametrize("name", MANDATORY)
def test_a_release_without_a_mandatory_file_is_refused(
    schemas: Path, output: Path, release: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (release / name).unlink()

    code = run(schemas, output, "--version", "v0.0.32", "--source", str(release))

    assert code == 1
    assert complaint(capsys) == f"generate-schemas: release v0.0.32 has no {name}"


def test_a_source_with_sums_is_checked_against_them(
    schemas: Path, output: Path, release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"{'0' * 64}  {name}\n" for name in MANDATORY]
    (release / "SHA256SUMS").write_text("".join(lines))

    code = run(schemas, output, "--version", "v0.0.32", "--source", str(release))

    assert code == 1
    assert "does not match its sum in SHA256SUMS" in complaint(capsys)


def test_a_source_may_hold_a_folder_for_each_version(
    schemas: Path, output: Path, release: Path, tmp_path: Path
) -> None:
    shutil.move(release, tmp_path / "mirror" / "v0.0.32")

    code = run(schemas, output, "--version", "v0.0.32", "--source", str(tmp_path / "mirror"))

    assert code == 0


def test_a_pin_that_is_replaced_is_named(
    schemas: Path, output: Path, release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(schemas, output, "--version", "v0.0.32", "--source", str(release))
    path = release / "Token.json"
    path.write_text(path.read_text() + "\n")
    capsys.readouterr()

    code = run(schemas, output, "--version", "v0.0.32", "--source", str(release))

    assert code == 0
    told = capsys.readouterr().out
    assert "Token.json of v0.0.32 was pinned with other content; replaced" in told
    assert "MCPOptions.json" not in told


def test_a_source_that_is_not_there_is_named(
    schemas: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(schemas, output, "--source", "/nowhere")

    assert code == 1
    assert complaint(capsys) == "generate-schemas: /nowhere is no folder"


@pytest.mark.parametrize("version", ["latest", "../../etc", "v1", "v0.0.31/.."])
def test_what_is_no_version_is_refused(
    schemas: Path, output: Path, capsys: pytest.CaptureFixture[str], version: str
) -> None:
    code = run(schemas, output, "--version", version)

    assert code == 1
    assert "is no version; expected one like v0.0.31" in complaint(capsys)


def test_a_hostile_schema_cannot_write_code(schemas: Path, output: Path, release: Path) -> None:
    schema = json.loads((release / "Token.json").read_bytes())
    quote = '"""\nimport os\nos.abort()\n"""'
    schema["description"] = quote
    schema["x-generated"]["package"] = quote
    schema["x-generated"]["timestamp"] = quote
    schema["properties"][quote] = {"type": "string", "description": quote, "default": quote}
    schema["properties"]["kind"] = {"enum": [quote], "customTypePath": "os.abort"}
    schema["customBasePath"] = "os.abort"
    (release / "Token.json").write_text(json.dumps(schema))

    code = run(schemas, output, "--version", "v0.0.32", "--source", str(release))

    assert code == 0
    fields = imported(output).Token.model_fields
    assert fields["import_os_os_abort"].default == quote
    assert fields["kind"].default is None


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        ("x-collection", 'tokens"\n        import os'),
        ("x-indexes", [{"fields": {'a"': 1}}]),
        ("x-indexes", [{"fields": {"a": 1}, "storageEngine": "x"}]),
        ("x-indexes", [{"fields": {"a": 1}, "expireAfterSeconds": "0"}]),
        ("x-indexes", [{"fields": {}}]),
        ("x-indexes", [{"fields": {"a": True}}]),
        ("x-indexes", [{"fields": {"a": "upwards"}}]),
        ("x-indexes", [{"fields": {"a": ["text"]}}]),
        ("x-indexes", [{"fields": {"a": 1}, "partialFilterExpression": {"b": float("inf")}}]),
        ("x-indexes", [{"fields": {"a": 1}, "partialFilterExpression": []}]),
        ("x-indexes", "a"),
    ],
)
def test_a_malformed_annotation_is_refused(
    schemas: Path, output: Path, release: Path, annotation: str, value: object
) -> None:
    schema = json.loads((release / "Token.json").read_bytes())
    (release / "Token.json").write_text(json.dumps({**schema, annotation: value}))

    code = run(schemas, output, "--version", "v0.0.32", "--source", str(release))

    assert code == 1
    assert not output.exists()


def test_partial_and_text_indexes_come_out_as_they_are_declared(
    schemas: Path, output: Path, release: Path
) -> None:
    schema = json.loads((release / "Token.json").read_bytes())
    partial = {"email": {"$exists": True}, "type": {"$in": ["a", 'b"']}}
    schema["x-indexes"] = [
        {"fields": {"email": 1}, "unique": True, "partialFilterExpression": partial},
        {"fields": {"identifier": "text", "type": -1}, "weights": {"identifier": 3}},
    ]
    (release / "Token.json").write_text(json.dumps(schema))

    assert run(schemas, output, "--version", "v0.0.32", "--source", str(release)) == 0

    first, second = (index.document for index in imported(output).Token.Settings.indexes)
    assert first["partialFilterExpression"] == partial
    assert dict(second["key"]) == {"identifier": "text", "type": -1}
    assert second["weights"] == {"identifier": 3}


def test_a_published_id_does_not_take_the_place_of_the_documents_own(
    schemas: Path, output: Path, release: Path
) -> None:
    schema = json.loads((release / "Token.json").read_bytes())
    schema["properties"]["id"] = {"type": "string"}
    (release / "Token.json").write_text(json.dumps(schema))

    assert run(schemas, output, "--version", "v0.0.32", "--source", str(release)) == 0

    fields = imported(output).Token.model_fields
    assert fields["id"].alias == "_id"
    assert fields["id_"].alias == "id"


def test_a_file_that_is_new_is_said_to_be_left_out(
    schemas: Path, output: Path, release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (release / "Role.json").write_text("{}")

    assert run(schemas, output, "--version", "v0.0.32", "--source", str(release)) == 0

    assert "Role.json of v0.0.32 is not taken" in capsys.readouterr().out
    assert not (schemas / "v0.0.32" / "Role.json").exists()


def test_what_a_release_changes_is_printed(
    schemas: Path, output: Path, release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schema = json.loads((release / "Token.json").read_bytes())
    del schema["properties"]["email"]
    schema["properties"]["audience"] = {"type": "array", "items": {"type": "string"}}
    schema["properties"]["type"] = {"type": "integer"}
    schema["required"] = [*schema["required"], "identifier", "audience"]
    schema["x-indexes"] = [{"fields": {"userId": 1}}]
    (release / "Token.json").write_text(json.dumps(schema))

    assert run(schemas, output, "--version", "v0.0.32", "--source", str(release)) == 0

    lines = capsys.readouterr().out.splitlines()
    start = lines.index("against the pinned v0.0.31:") + 1
    assert lines[start : start + 6] == [
        "  added: Token.audience (array of string, required)",
        "  removed: Token.email (string)",
        "  required now: Token.identifier",
        "  retyped: Token.type (string -> integer)",
        "  index removed: Token (expiresAt: 1), expireAfterSeconds=0",
        "  index added: Token (userId: 1)",
    ]


def test_a_release_that_changes_nothing_says_so(
    schemas: Path, output: Path, release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(schemas, output, "--version", "v0.0.32", "--source", str(release)) == 0

    assert "no field differs from the pinned v0.0.31" in capsys.readouterr().out


def sums_of(files: dict[str, bytes]) -> bytes:
    lines = (f"{hashlib.sha256(files[name]).hexdigest()} *{name}\n" for name in files)
    return "".join(lines).encode()


@pytest.mark.parametrize(
    ("altered", "complaint_of"),
    [
        ("Token.json", "v0.0.32/Token.json does not match its sum in SHA256SUMS"),
        (None, None),
    ],
)
def test_a_download_is_checked_against_the_sums_of_its_release(
    schemas: Path,
    output: Path,
    release: Path,
    capsys: pytest.CaptureFixture[str],
    altered: str | None,
    complaint_of: str | None,
) -> None:
    files = contents(release)
    with start_release_server() as server:
        listed = sums_of({**files, "Role.json": b"{}"})
        server.replies["/v0.0.32/SHA256SUMS"] = Reply(listed)
        for name, content in files.items():
            server.replies[f"/v0.0.32/{name}"] = Reply(
                content + (b" " if name == altered else b"")
            )

        code = run(schemas, output, "--version", "v0.0.32", "--source", server.url)

    if complaint_of is not None:
        assert code == 1
        assert complaint(capsys) == f"generate-schemas: {complaint_of}"
        assert not output.exists()
        return
    assert code == 0
    assert "Role.json of v0.0.32 is not taken" in capsys.readouterr().out


def test_a_listed_file_that_the_release_does_not_give_is_refused(
    schemas: Path, output: Path, release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = contents(release)
    with start_release_server() as server:
        server.replies["/v0.0.32/SHA256SUMS"] = Reply(sums_of({**files, "User.json": b"{}"}))
        for name, content in files.items():
            server.replies[f"/v0.0.32/{name}"] = Reply(content)

        code = run(schemas, output, "--version", "v0.0.32", "--source", server.url)

    assert code == 1
    assert complaint(capsys) == (
        "generate-schemas: v0.0.32/User.json is listed in SHA256SUMS and missing"
    )


@pytest.mark.requirement("R-310")
def test_a_release_is_downloaded_pinned_and_generated(
    schemas: Path, output: Path, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "only for GitHub")
    with start_release_server() as server:
        for name, content in contents(release).items():
            server.replies[f"/v0.0.32/{name}"] = Reply(content)

        code = run(schemas, output, "--version", "v0.0.32", "--source", server.url)

    assert code == 0
    assert set(server.tokens.values()) == {None}
    pinned = contents(schemas / "v0.0.32")
    assert {name: pinned[name] for name in MANDATORY} == contents(release)
    assert run(schemas, output, "--check") == 0


def test_a_download_that_fails_half_way_leaves_nothing(
    schemas: Path, output: Path, release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(schemas)
    with start_release_server() as server:
        for name, content in contents(release).items():
            server.replies[f"/v0.0.32/{name}"] = Reply(content)
        server.replies["/v0.0.32/Token.json"] = Reply(status=500)

        code = run(schemas, output, "--version", "v0.0.32", "--source", server.url)

    assert code == 1
    assert complaint(capsys) == "generate-schemas: 127.0.0.1 answered 500 for Token.json"
    assert everything(schemas) == before
    assert not output.exists()


def test_a_folder_that_cannot_be_written_is_one_line(
    schemas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()

    code = run(schemas, tmp_path / "file")

    assert code == 1
    assert complaint(capsys).endswith("file/.schema-version: Not a directory")


# What typescript-json-schema writes


OBJECT_ID = {"$ref": "#/definitions/Types.ObjectId"}
DATE = {"type": "string", "format": "date-time"}
DRIVER = {
    "$locals": {"$ref": "#/definitions/Record<string,unknown>"},
    "$op": {"anyOf": [{"enum": ["remove", "save"], "type": "string"}, {"type": "null"}]},
    "$where": {"$ref": "#/definitions/Record<string,unknown>"},
    "_id": OBJECT_ID,
    "baseModelName": {"type": "string"},
    "collection": {"$ref": '#/definitions/Collection<any, "a">'},
    "db": {"$ref": "#/definitions/Connection"},
    "errors": {"$ref": "#/definitions/Error.ValidationError"},
    "id": {},
    "isNew": {"type": "boolean"},
    "schema": {"$ref": "#/definitions/Schema<any,any>"},
}
DEFINITIONS: dict[str, Any] = {
    "Types.ObjectId": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "_bsontype": {"const": "ObjectId", "type": "string"},
            "_id": OBJECT_ID,
            "id": {"$ref": "#/definitions/Uint8Array"},
        },
        "required": ["_bsontype", "_id", "id"],
    },
    "Uint8Array": {"type": "object", "properties": {"BYTES_PER_ELEMENT": {"type": "number"}}},
    "Record<string,unknown>": {"type": "object", "additionalProperties": False},
    "Map<string,unknown>": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"@@toStringTag": {"type": "string"}, "size": {"type": "number"}},
        "required": ["@@toStringTag", "size"],
    },
    'Collection<any, "a">': {
        "type": "object",
        "properties": {"conn": {"$ref": "#/definitions/Connection"}},
    },
    "Connection": {
        "type": "object",
        "properties": {"c": {"$ref": '#/definitions/Collection<any, "a">'}},
    },
}


def raw(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    """Return a document type as the tool writes it, with the driver's internals."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "additionalProperties": False,
        "definitions": DEFINITIONS,
        "properties": {**DRIVER, **properties},
        "required": sorted([*DRIVER, *required]),
        "type": "object",
    }


@pytest.fixture
def raw_release(tmp_path: Path) -> Path:
    """Return a folder with the mandatory files of v0.0.32 as the tool writes them."""
    options = json.loads(RAW_OPTIONS.read_bytes())
    server = raw(
        {
            "author": OBJECT_ID,
            "config": {"anyOf": options["anyOf"]},
            "createdAt": DATE,
            "numTools": {"type": "number"},
            "owners": {"type": "array", "items": OBJECT_ID},
            "serverName": {"type": "string"},
        },
        ["author", "config", "createdAt", "owners", "serverName"],
    )
    server["definitions"] |= options["definitions"]
    token = raw(
        {
            "createdAt": DATE,
            "expiresAt": DATE,
            "metadata": {"$ref": "#/definitions/Map<string,unknown>"},
            "token": {"type": "string"},
            "userId": OBJECT_ID,
        },
        ["createdAt", "expiresAt", "token", "userId"],
    )
    folder = tmp_path / "raw"
    folder.mkdir()
    block = {"version": "0.0.32", "timestamp": "2026-02-03T04:05:06Z"}
    for name, schema in zip(MANDATORY, [options, server, token], strict=True):
        (folder / name).write_text(json.dumps({**schema, "x-generated": block}))
    return folder


@pytest.fixture
def raw_models(schemas: Path, output: Path, raw_release: Path) -> ModuleType:
    """Return what is generated from the raw files."""
    assert run(schemas, output, "--version", "v0.0.32", "--source", str(raw_release)) == 0
    return imported(output)


@pytest.mark.requirement("R-318")
def test_raw_files_give_a_configuration_that_takes_headers_and_unknown_fields(
    raw_models: ModuleType,
) -> None:
    config = {
        "type": "sse",
        "url": "https://mcp.example.com",
        "headers": {"X-Team": "blue"},
        "oauth_headers": {"X-Client": "1"},
        "timeout": 30000,
        "customUserVars": {"TEAM": {"title": "Team", "description": "Which?", "sensitive": True}},
        "toolFunctions": {"a_mcp_b": {"type": "function", "function": {"name": "a_mcp_b"}}},
        "tools": "a",
        "proxy": {"url": "http://proxy.example.com"},
    }

    loaded = raw_models.MCPConfig.model_validate(config)

    assert loaded.model_dump(by_alias=True, exclude_none=True) == config
    assert loaded.headers == {"X-Team": "blue"}
    assert type(loaded.custom_user_vars["TEAM"]) is raw_models.CustomUserVar
    assert loaded.tool_functions["a_mcp_b"].function.name == "a_mcp_b"
    assert type(loaded.timeout) is int


@pytest.mark.requirement("R-318")
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("StdioTransport", {"command": "npx", "args": [], "env": {"A": "b"}}),
        ("WebSocketTransport", {"url": "wss://mcp.example.com"}),
        ("SSETransport", {"url": "https://mcp.example.com", "headers": {"A": "b"}}),
        ("StreamableHTTPTransport", {"type": "http", "url": "https://mcp.example.com"}),
    ],
)
def test_raw_variants_are_told_apart_by_their_type(
    raw_models: ModuleType, name: str, config: dict[str, Any]
) -> None:
    transport = getattr(raw_models, name).model_validate(config)

    dumped = transport.model_dump(by_alias=True, exclude_none=True)
    assert dumped == {"type": dumped["type"], **config}


@pytest.mark.requirement("R-318")
def test_raw_files_give_the_same_classes_as_annotated_ones(raw_models: ModuleType) -> None:
    from packages.models import _generated as annotated

    def facts(module: ModuleType) -> dict[str, set[str]]:
        names = [name for name in module.__all__ if hasattr(getattr(module, name), "model_fields")]
        return {name: set(getattr(module, name).model_fields) for name in names}

    expected = facts(annotated)
    expected["MCPServer"].add("owners")
    assert facts(raw_models) == expected


@pytest.mark.requirement("R-318")
def test_raw_documents_keep_none_of_the_driver_and_gain_their_annotations(
    raw_models: ModuleType,
) -> None:
    server, token = raw_models.MCPServer, raw_models.Token

    required = {name for name, field in server.model_fields.items() if field.is_required()}
    assert required == {"server_name", "config", "author"}
    assert server.Settings.name == "mcpservers"
    assert len(server.Settings.indexes) == 3
    assert token.Settings.indexes[0].document["expireAfterSeconds"] == 0
    assert server.model_config["json_schema_extra"] == {
        "source": "MCPServerDocument",
        "package": "@jarvis/data-schemas",
        "version": "0.0.32",
        "generated_at": "2026-02-03T04:05:06Z",
    }


@pytest.mark.requirement("R-318")
async def test_a_stored_server_loads_into_raw_models(
    raw_models: ModuleType, database_uri: str
) -> None:
    from beanie import init_beanie

    from packages.database.client import Database

    database = Database(database_uri, timeout_ms=5000)
    await init_beanie(database.db, document_models=[raw_models.MCPServer], skip_indexes=True)
    stored = {
        "_id": ObjectId(),
        "serverName": "github",
        "config": {"type": "http", "url": "https://mcp.example.com", "headers": {"A": "b"}},
        "author": ObjectId(),
        "owners": [ObjectId()],
        "scope": "shared_app",
        "__v": 0,
    }
    await database.db["mcpservers"].insert_one(dict(stored))
    server = await raw_models.MCPServer.get(stored["_id"])

    await server.save()

    assert await database.db["mcpservers"].find_one({}) == stored
    await database.close()
