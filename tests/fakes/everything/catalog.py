"""The prompts, resources and completions of the everything server."""

import re
from typing import Any

from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    BlobResourceContents,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    EmbeddedResource,
    GetPromptRequestParams,
    GetPromptResult,
    ImageContent,
    InputRequiredResult,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    Prompt,
    PromptArgument,
    PromptMessage,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextContent,
    TextResourceContents,
)

from tests.fakes.everything import content
from tests.fakes.everything.asking import Context, ask
from tests.fakes.everything.tools import WATCHED

RESOURCES = [
    Resource(uri="test://static-text", name="Text", description="Text.", mime_type="text/plain"),
    Resource(
        uri="test://static-binary", name="Binary", description="One pixel.", mime_type="image/png"
    ),
    Resource(uri=WATCHED, name="Watched", description="Changes at times.", mime_type="text/plain"),
]
TEMPLATES = [
    ResourceTemplate(
        uri_template="test://template/{id}/data",
        name="Template",
        description="Data of one id.",
        mime_type="application/json",
    )
]
TEMPLATE = re.compile(r"test://template/([^/]+)/data")


def _argument(name: str) -> PromptArgument:
    return PromptArgument(name=name, description=f"The {name}.", required=True)


PROMPTS = [
    Prompt(name="test_simple_prompt", description="A prompt without arguments."),
    Prompt(
        name="test_prompt_with_arguments",
        description="A prompt with two arguments.",
        arguments=[_argument("arg1"), _argument("arg2")],
    ),
    Prompt(
        name="test_prompt_with_embedded_resource",
        description="A prompt that embeds a resource.",
        arguments=[_argument("resourceUri")],
    ),
    Prompt(name="test_prompt_with_image", description="A prompt with a picture."),
    Prompt(name="test_input_required_result_prompt", description="A prompt that asks the user."),
]


async def list_resources(context: Context, params: Any) -> ListResourcesResult:
    """List the resources."""
    return ListResourcesResult(resources=RESOURCES)


async def list_templates(context: Context, params: Any) -> ListResourceTemplatesResult:
    """List the templates."""
    return ListResourceTemplatesResult(resource_templates=TEMPLATES)


async def read_resource(context: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
    """Read a resource, or one that a template makes.

    Raises:
        MCPError: There is none.
    """
    uri = str(params.uri)
    templated = TEMPLATE.fullmatch(uri)
    contents: TextResourceContents | BlobResourceContents
    if templated:
        text = (
            f'{{"id":"{templated[1]}","templateTest":true,"data":"Data for ID: {templated[1]}"}}'
        )
        contents = TextResourceContents(uri=uri, mime_type="application/json", text=text)
    elif uri == "test://static-binary":
        contents = BlobResourceContents(uri=uri, mime_type="image/png", blob=content.PNG)
    elif uri in {str(resource.uri) for resource in RESOURCES}:
        text = "This is the content of the static text resource."
        contents = TextResourceContents(uri=uri, mime_type="text/plain", text=text)
    else:
        raise MCPError(INVALID_PARAMS, "Resource not found", {"uri": uri})
    return ReadResourceResult(contents=[contents])


async def list_prompts(context: Context, params: Any) -> ListPromptsResult:
    """List the prompts."""
    return ListPromptsResult(prompts=PROMPTS)


async def get_prompt(
    context: Context, params: GetPromptRequestParams
) -> GetPromptResult | InputRequiredResult:
    """Return a prompt's messages.

    Raises:
        MCPError: There is no such prompt.
    """
    given = params.arguments or {}
    match params.name:
        case "test_simple_prompt":
            return _prompt(TextContent(text="This is a simple prompt for testing."))
        case "test_prompt_with_arguments":
            text = f"Prompt with arguments: arg1='{given['arg1']}', arg2='{given['arg2']}'"
            return _prompt(TextContent(text=text))
        case "test_prompt_with_embedded_resource":
            resource = TextResourceContents(
                uri=given["resourceUri"], mime_type="text/plain", text="Embedded for testing."
            )
            embedded = EmbeddedResource(resource=resource)
            return _prompt(embedded, TextContent(text="Please process the resource above."))
        case "test_prompt_with_image":
            picture = ImageContent(data=content.PNG, mime_type="image/png")
            return _prompt(picture, TextContent(text="Please analyze the image above."))
        case "test_input_required_result_prompt":
            return await _asking_prompt(context, params)
        case unknown:
            raise MCPError(INVALID_PARAMS, f"Unknown prompt: {unknown}")


async def complete(context: Context, params: CompleteRequestParams) -> CompleteResult:
    """Suggest what the value so far may become."""
    begun = params.argument.value
    values = [word for word in ("paris", "park", "party", "testing") if word.startswith(begun)]
    return CompleteResult(completion=Completion(values=values, total=len(values), has_more=False))


async def _asking_prompt(
    context: Context, params: GetPromptRequestParams
) -> GetPromptResult | InputRequiredResult:
    question = content.form("What context should the prompt use?", content.text_schema("context"))
    answers = await ask(context, params, {"user_context": question})
    if isinstance(answers, InputRequiredResult):
        return answers
    entered = answers["user_context"].content or {}
    return _prompt(TextContent(text=f"Use this context: {entered.get('context')}"))


def _prompt(*contents: Any) -> GetPromptResult:
    return GetPromptResult(
        messages=[PromptMessage(role="user", content=item) for item in contents]
    )
