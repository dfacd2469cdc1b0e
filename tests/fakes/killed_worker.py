"""A process that makes approved calls, and kills itself at one moment of the first."""

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack
from datetime import timedelta
from enum import StrEnum
from typing import Any

from typing_extensions import override

from packages.database.client import Database
from packages.database.encryption import Cipher
from registry.approvals.repository import ApprovalRepository
from registry.approvals.values import Approval
from registry.core.clock import SystemClock
from registry.gateway.building import Approvals
from registry.gateway.view.approval_notices import ApprovalNotices
from registry.workers.peers import SingleWorker
from tests.conftest import CREDS_IV, CREDS_KEY
from tests.gateway.approving import HANDED_OUT, approval_service, approved_tools_route
from tests.gateway.conftest import starter


class Moment(StrEnum):
    """When the process dies."""

    AFTER_CLAIM = "after_claim"
    BEFORE_STORING = "before_storing"
    AFTER_STORING = "after_storing"


class DeadlyRepository(ApprovalRepository):
    """Kills the process at a moment."""

    moment: Moment

    def reached(self, moment: Moment) -> None:
        """Die if it is the moment."""
        if moment is self.moment:
            os.kill(os.getpid(), signal.SIGKILL)

    @override
    async def claim(self, *given: Any) -> Approval | None:
        claimed = await super().claim(*given)
        self.reached(Moment.AFTER_CLAIM)
        return claimed

    @override
    async def store_result(self, *given: Any, **said: Any) -> Approval | None:
        self.reached(Moment.BEFORE_STORING)
        stored = await super().store_result(*given, **said)
        self.reached(Moment.AFTER_STORING)
        return stored


async def main(uri: str, url: str, moment: str) -> None:
    """Make what is approved, for the server at *url*."""
    database = Database(uri, timeout_ms=5000)
    repository = DeadlyRepository(
        database,
        Cipher(CREDS_KEY, CREDS_IV),
        SystemClock(),
        lifetime=timedelta(hours=1),
        retention=timedelta(days=1),
    )
    repository.moment = Moment(moment)
    notices = ApprovalNotices()
    service = approval_service(database, repository, notices)
    async with AsyncExitStack() as stack:
        gateway = await starter(stack)(
            approved_tools_route(url),
            approvals=Approvals(service, repository, notices, HANDED_OUT),
            peers=SingleWorker("mortal00"),
        )
        await gateway.builder.approved_calls.follow()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
