"""Builds requests for approval, as the gateway uses them, and what tells of them."""

from registry.approvals.repository import ApprovalRepository
from registry.approvals.webhook import ApprovalWebhook
from registry.auth.repository import DirectoryRepository
from registry.core.clock import Clock
from registry.core.settings import Settings
from registry.gateway.building import Approvals
from registry.gateway.view.approval_notices import ApprovalNotices
from registry.upstream.webhook import WebhookReceiver
from registry.wiring.services import build_approval_repository, build_approval_service
from registry.wiring.storage import Storage


def build_approvals(
    settings: Settings, storage: Storage, directory: DirectoryRepository, clock: Clock
) -> Approvals:
    """Return the requests for approval, as the gateway uses them."""
    repository = build_approval_repository(settings, storage, clock)
    notices = ApprovalNotices()
    service = build_approval_service(settings, storage, directory, repository, notices.note, clock)
    return Approvals(service, repository, notices)


def build_approval_webhook(
    settings: Settings, repository: ApprovalRepository, receiver: WebhookReceiver, clock: Clock
) -> ApprovalWebhook:
    """Return what tells the operator's receiver of requests."""
    secret = settings.approval_webhook_secret
    assert secret is not None  # noqa: S101 - the settings demand it with the address
    return ApprovalWebhook(repository, receiver.post, secret.get_secret_value(), clock=clock)
