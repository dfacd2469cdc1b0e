"""Builds requests for approval."""

from datetime import timedelta

from registry.approvals.repository import ApprovalRepository
from registry.approvals.service import ApprovalService
from registry.core.clock import Clock
from registry.core.settings import Settings
from registry.gateway.building import Approvals
from registry.gateway.view.approval_notices import ApprovalNotices
from registry.wiring.storage import Storage


def build_approvals(settings: Settings, storage: Storage, clock: Clock) -> Approvals:
    """Return the requests for approval, as the gateway uses them."""
    repository = ApprovalRepository(
        storage.database,
        storage.cipher,
        clock,
        lifetime=timedelta(hours=settings.approval_lifetime_hours),
        retention=timedelta(days=settings.approval_retention_days),
    )
    notices = ApprovalNotices()
    service = ApprovalService(
        repository,
        storage.repositories.visible,
        storage.audit,
        notices.note,
        allows_own=settings.approval_by_requester,
    )
    return Approvals(service, repository, notices)
