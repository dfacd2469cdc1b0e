"""The application of the servers' tests."""

from tests.servers.conftest import module_rest as module_rest  # noqa: PLC0414 - a fixture
from tests.servers.conftest import rest as rest  # noqa: PLC0414 - a fixture
from tests.servers.conftest import upstream as upstream  # noqa: PLC0414 - a fixture
