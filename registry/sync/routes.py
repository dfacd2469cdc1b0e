"""The sync API: `/api/v1/sync`."""

from typing import Annotated, cast

from fastapi import APIRouter, Path, Query, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from registry.auth.dependencies import needs
from registry.auth.identity import Scope, UserContext
from registry.core.paging import PageRequest
from registry.core.text import ObjectIdText
from registry.sync.presenter import present_job, present_run
from registry.sync.schemas import (
    DeliveryAnswer,
    JobDetail,
    JobList,
    JobQuery,
    JobSummary,
    SyncAnswer,
    WebhookSecret,
)
from registry.sync.service import SyncService
from registry.web.bodies import ServerId, StrictJsonRoute, small_body
from registry.web.errors import NO_STORE, JsonAnswer, error_answers
from registry.web.pages import present_page

Reader = Annotated[UserContext, needs(Scope.READ_SERVERS)]
Writer = Annotated[UserContext, needs(Scope.WRITE_SERVERS)]
JobId = Annotated[ObjectIdText, Path(description="ObjectId of the job.")]

MAX_PAYLOAD_BYTES = 64 * 1024
"""Maximum body of a webhook call. The body is only verified against the signature."""

errors = error_answers(
    {
        404: "There is no such server or job.",
        409: "The server is turned off, or the job is in another state than that.",
    }
)

router = APIRouter(prefix="/api/v1/sync", tags=["sync"], route_class=StrictJsonRoute)


def _service(request: Request) -> SyncService:
    return cast("SyncService", request.app.state.sync)


@router.post(
    "/owners/{owner_id}",
    status_code=202,
    response_model=SyncAnswer,
    operation_id="sync_owner",
    responses=errors(404, 408, 409),
)
async def sync_owner(request: Request, user: Writer, owner_id: ServerId) -> Response:
    """Read a server's tools again in the background; joins a job that is under way."""
    job, joined = await _service(request).sync(owner_id, user)
    answer = {
        "job_id": job.id,
        "state": job.state.value,
        "deduplicated": joined,
        "job": present_job(job),
    }
    return JsonAnswer(answer, 202, {"Location": f"/api/v1/sync/jobs/{job.id}"})


@router.get("/jobs", response_model=JobList, operation_id="list_sync_jobs", responses=errors())
async def list_jobs(
    request: Request, user: Reader, asked: Annotated[JobQuery, Query()]
) -> Response:
    """List jobs of servers that the caller may see, newest first."""
    wanted = PageRequest(asked.page, asked.per_page)
    page = await _service(request).page(user, asked.job_filter(), wanted)
    return JsonAnswer(present_page("jobs", page, present_job))


@router.get(
    "/jobs/{job_id}",
    response_model=JobDetail,
    operation_id="get_sync_job",
    responses=errors(404),
)
async def get_job(request: Request, user: Reader, job_id: JobId) -> Response:
    """Return a job with its attempts, and its progress while it runs."""
    job, runs = await _service(request).get(job_id, user)
    attempts = [present_run(run, names_worker=user.is_admin) for run in runs]
    return JsonAnswer({**present_job(job), "runs": attempts})


@router.post(
    "/jobs/{job_id}/retry",
    status_code=202,
    response_model=JobSummary,
    operation_id="retry_sync_job",
    responses=errors(404, 408, 409),
)
async def retry_job(request: Request, user: Writer, job_id: JobId) -> Response:
    """Retry a job that is dead or cancelled."""
    job = await _service(request).retry(job_id, user)
    return JsonAnswer(present_job(job), 202, {"Location": f"/api/v1/sync/jobs/{job.id}"})


@router.put(
    "/owners/{owner_id}/webhook",
    response_model=WebhookSecret,
    operation_id="put_webhook",
    responses=errors(404, 408, 409),
)
async def make_webhook(request: Request, user: Writer, owner_id: ServerId) -> Response:
    """Create a new secret for the server's webhook, and return it only this once.

    The former secret becomes invalid. Calls are accepted while `syncMode` is `webhook`.
    """
    secret = await _service(request).make_webhook(owner_id, user)
    url = f"{request.app.state.base_url}/api/v1/sync/webhooks/{owner_id}"
    return JsonAnswer({"url": url, "secret": secret}, headers=NO_STORE)


@router.delete(
    "/owners/{owner_id}/webhook",
    status_code=204,
    operation_id="delete_webhook",
    responses=errors(404),
)
async def remove_webhook(request: Request, user: Writer, owner_id: ServerId) -> Response:
    """Delete the secret of the server's webhook: further calls are refused."""
    await _service(request).remove_webhook(owner_id, user)
    return Response(status_code=204)


async def receive_webhook(request: Request, owner_id: ServerId) -> Response:
    """Receive a signed call that reports changed tools of a server.

    Signed as in Standard Webhooks: the headers `webhook-id`, `webhook-timestamp` (at most
    five minutes off) and `webhook-signature`. A repeated message begins nothing.
    """
    body = await small_body(request, MAX_PAYLOAD_BYTES)
    job, came_before = await _service(request).receive(owner_id, request.headers, body)
    return JsonAnswer({"job_id": job.id, "duplicate": came_before}, 202)


router.add_api_route(
    "/webhooks/{owner_id}",
    receive_webhook,
    methods=["POST"],
    status_code=202,
    response_model=DeliveryAnswer,
    operation_id="receive_webhook",
    responses=errors(408, 409),
    # Any content type is accepted; the raw body is verified against the signature.
    route_class_override=APIRoute,
)
