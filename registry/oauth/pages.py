"""Pages that people see in the browser while they authorise the registry. No scripts.

Everything that comes from a server, a user or an authorization server is escaped.
"""

import base64
import hashlib
from collections.abc import Sequence
from html import escape

from starlette.responses import HTMLResponse

from registry.oauth.values import shown_scopes

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:3rem auto;padding:0 1rem;"
    "color:#1d2733;background:#fff}h1{font-size:1.4rem}strong{overflow-wrap:anywhere}"
    "button{font:inherit;padding:.5rem 1.2rem;border:0;border-radius:6px;color:#fff;"
    "background:#0b57d0;cursor:pointer}.note{color:#5b6877}"
    "@media(prefers-color-scheme:dark){body{color:#dfe6ee;background:#14191f}"
    ".note{color:#9aa7b5}}"
)
STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

HEADERS = {
    # No form-action: browsers apply it to the redirect to the authorization server as well.
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{content}
</body>
</html>
"""

CONFIRM = """<p>Access to <strong>{server}</strong> ({host}) will be given to the account
<strong>{user}</strong> of this MCP gateway registry.</p>
<p>Continue only if <strong>{user}</strong> is you, and you asked for this. Someone who sent you
this link would otherwise get access to what is yours at {server}.</p>
{wanted}<form method="post"><button type="submit">Continue to sign in</button></form>
<p class="note">You will be asked at the sign-in page of {server}.</p>"""

WANTED = """<p>{server} wants more than was granted before: <strong>{scopes}</strong>.</p>
"""

DONE = """<p>The registry can now use <strong>{server}</strong> on your behalf.</p>
<p class="note">You can close this page and go on in your application.</p>"""

FAILED = """<p>{message}</p>
<p class="note">You can close this page.</p>"""


def confirm_page(server: str, host: str, user: str, scopes: Sequence[str] = ()) -> HTMLResponse:
    """Return the page that asks a person whether to begin.

    Args:
        server: Its title.
        host: Where it is.
        user: The account that gets access.
        scopes: Those that a call has lacked.
    """
    wanted = ""
    if scopes:
        wanted = WANTED.format(server=escape(server), scopes=escape(shown_scopes(scopes)))
    content = CONFIRM.format(
        server=escape(server), host=escape(host), user=escape(user), wanted=wanted
    )
    page = _page(f"Connect {server}", content)
    # With `no-referrer`, browsers send `Origin: null` with the form.
    page.headers["Referrer-Policy"] = "same-origin"
    return page


def done_page(server: str) -> HTMLResponse:
    """Return the page after an authorization."""
    return _page(f"{server} is connected", DONE.format(server=escape(server)))


def failed_page(message: str, status: int) -> HTMLResponse:
    """Return the page that says why there was no authorization."""
    return _page("Not connected", FAILED.format(message=escape(message)), status)


def _page(title: str, content: str, status: int = 200) -> HTMLResponse:
    body = PAGE.format(title=escape(title), style=STYLE, content=content)
    return HTMLResponse(body, status, headers=HEADERS)
