from pathlib import Path

import pytest

from registry.core.clock import SystemClock
from registry.processes.local.home import LocalHome


@pytest.fixture
def clock() -> SystemClock:
    return SystemClock()


@pytest.fixture
def home(tmp_path: Path) -> LocalHome:
    return LocalHome(tmp_path / "home")
