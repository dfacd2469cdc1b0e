"""Builds requests for approval, as the gateway uses them."""

from registry.auth.repository import DirectoryRepository
from registry.core.clock import Clock
from registry.core.settings import Settings
from registry.gateway.building import Approvals
from registry.gateway.view.approval_notices import ApprovalNotices
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
