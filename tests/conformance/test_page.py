from tests.conformance.page import PAGE, pinned_version


def test_the_page_names_the_suite_that_is_pinned() -> None:
    assert f"`@modelcontextprotocol/conformance@{pinned_version()}`" in PAGE.read_text()
