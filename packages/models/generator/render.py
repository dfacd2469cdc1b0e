"""Modules as Python text, written by datamodel-code-generator.

What it cannot say is added afterwards: the `Settings` of a document, and defaults that are calls.
"""

from collections import defaultdict
from typing import Any

from packages.models.generator.errors import GenerationError
from packages.models.generator.models import Module
from packages.models.generator.naming import field_names
from packages.models.generator.releases import GENERATED_PACKAGE, Schema
from packages.models.generator.safety import require_declarations_only
from packages.models.generator.settings import Index

HEADER = '''"""Generated from {file} of {package} {version}.

Do not edit: run `python scripts/generate_schemas.py`.
"""
'''
GENERATED_MARK = '"""Generated from '


def render(module: Module) -> str:
    """Return the text of *module*: the same for the same input, whatever the process.

    Raises:
        GenerationError: The generator refuses the schema, or wrote more than declarations.
    """
    names = field_names(module.wire_names)
    # Relative, so that a package written elsewhere does not mix with the one that is installed.
    text = _written(module, names).replace(f"from {GENERATED_PACKAGE}.", "from .")
    text = text.replace('"""\n\n\nfrom', '"""\n\nfrom', 1)
    for wire_name in sorted(module.defaults_to_now):
        text = _defaulting_to_now(text, names[wire_name])
    text = f"{text.rstrip()}\n"
    if module.collection is not None:
        text = f"{text}\n{_settings(module.collection, module.indexes)}"
    require_declarations_only(module.published.module, text)
    return text


def _written(module: Module, names: dict[str, str]) -> str:
    try:
        # An extra that may be absent, hence not at the top.
        from datamodel_code_generator import (  # noqa: PLC0415
            InputFileType,
            LiteralType,
            PythonVersion,
            generate,
        )
        from datamodel_code_generator.enums import DataModelType  # noqa: PLC0415
        from datamodel_code_generator.format import Formatter  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        raise GenerationError(
            "datamodel-code-generator is not installed; run: pip install '.[schemas]'"
        ) from exc
    imports = ["packages.models.fields.now"] if module.defaults_to_now else []
    if module.collection is not None:
        imports += ["pymongo.IndexModel", "typing.ClassVar"]
    template_data: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    template_data[module.published.model]["config"] = {"json_schema_extra": _metadata(module)}
    text = generate(
        _input(module),
        input_file_type=InputFileType.JsonSchema,
        output_model_type=DataModelType.PydanticV2BaseModel,
        target_python_version=PythonVersion.PY_311,
        formatters=[Formatter.BUILTIN],
        custom_file_header=_header(module),
        disable_timestamp=True,
        disable_future_imports=True,
        additional_imports=imports,
        aliases={wire: name for wire, name in names.items() if wire != name},
        allow_population_by_field_name=True,
        allow_remote_refs=False,
        apply_default_values_for_required_fields=True,
        enum_field_as_literal=LiteralType.All,
        extra_fields="allow",
        extra_template_data=template_data,
        # Given, because it would else be read from the pyproject.toml of the working directory.
        builtin_format_line_length=99,
        field_constraints=True,
        use_annotated=True,
        use_double_quotes=True,
        use_schema_description=True,
        use_standard_collections=True,
        use_union_operator=True,
    )
    if not isinstance(text, str):
        raise GenerationError(f"{module.published.file} does not fit into one module")
    return text


def _input(module: Module) -> Schema:
    root = dict(module.root)
    if module.collection is not None:
        root["customBasePath"] = "beanie.Document"
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": module.published.model,
        **root,
        "definitions": dict(module.classes),
    }


def _header(module: Module) -> str:
    origin = module.origin
    return HEADER.format(
        file=module.published.file, package=_plain(origin.package), version=_plain(origin.version)
    )


def _metadata(module: Module) -> Schema:
    return {
        "source": module.published.file.removesuffix(".json"),
        "package": module.origin.package,
        "version": module.origin.version,
        "generated_at": module.origin.timestamp,
    }


def _plain(text: str) -> str:
    return "".join(c for c in text if c.isalnum() or c in "@/._-+ ")


def _defaulting_to_now(text: str, name: str) -> str:
    # The field is optional for the generator: `x: Annotated[T | None, Field(...)] = None`.
    lines = text.split("\n")
    start = next((i for i, ln in enumerate(lines) if ln.startswith(f"    {name}: ")), None)
    if start is None:
        raise GenerationError(f"the field {name} was not generated")
    end = start
    while not lines[end].endswith(" = None"):
        end += 1
    field = " ".join(line.strip() for line in lines[start : end + 1])
    field = field.removesuffix(" = None").replace(" | None", "", 1)
    if "Field(" in field:
        field = field.replace("Field(", "Field(default_factory=now, ", 1)
    else:
        kind = field.partition(": ")[2]
        field = f"{name}: Annotated[{kind}, Field(default_factory=now)]"
    return "\n".join([*lines[:start], f"    {field}", *lines[end + 1 :]])


def _settings(collection: str, indexes: tuple[Index, ...]) -> str:
    lines = [
        "    class Settings:",
        '        """The collection, and its indexes as the other application declares them."""',
        "",
        f'        name = "{collection}"',
        "        keep_nulls = False",
    ]
    if not indexes:
        return "\n".join([*lines, "        indexes: ClassVar[list[IndexModel]] = []", ""])
    lines.append("        indexes: ClassVar[list[IndexModel]] = [")
    lines += [f"            {_index(index)}," for index in indexes]
    return "\n".join([*lines, "        ]", ""])


def _index(index: Index) -> str:
    keys = ", ".join(f'("{key}", {direction!r})' for key, direction in index.keys)
    options = "".join(f", {name}={value!r}" for name, value in index.options)
    return f"IndexModel([{keys}]{options})"
