"""Which headers hold secrets, as far as their names say."""

import re

SECRET_HEADER = re.compile(
    r"(?i)(auth|bearer|cookie|credential|jwt|key|pass|pwd|secret|session|signature|token)"
)
"""Names of headers whose values are secrets, whatever the rules for names say."""

PLAIN_HEADER = re.compile(
    r"(?i)^(accept-language|user-agent|from|referer"
    r"|(x-)?([a-z]+-)*(account|app|application|branch|catalog|channel|client|cluster|country"
    r"|currency|database|department|dry-run|env|environment|features?|format|group|language"
    r"|locale|mode|name|namespace|org|organisation|organization|owner|platform|priority|product"
    r"|project|readonly|region|repository|schema|service|source|stage|team|tenant|timezone"
    r"|toolsets?|unit|version|warehouse|workspace|zone)(-?(id|name))?)$"
)
"""Names of headers without secrets. The values of all others count as secrets."""


def is_secret_name(name: str) -> bool:
    """Whether a header of that name may hold a secret: names of secrets cannot be enumerated."""
    return bool(SECRET_HEADER.search(name)) or PLAIN_HEADER.match(name) is None
