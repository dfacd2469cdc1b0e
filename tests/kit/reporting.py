"""Lines about failures while the tests still run."""

import pytest


class FailuresAtOnce:
    """Names each failed test as soon as it failed.

    pytest tells of failures at the end, which a run that is ended from outside never reaches.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write a line about a failed setup, call or teardown."""
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            crash = getattr(report.longrepr, "reprcrash", None)
            reason = (crash.message if crash else report.longreprtext).strip().partition("\n")[0]
            terminal.ensure_newline()
            terminal.write_line(f"{report.when} failed: {report.nodeid}: {reason[:200]}")
