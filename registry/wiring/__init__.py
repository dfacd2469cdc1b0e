"""The composition root: the one place that builds services, pools and background work.

One module for each part and no names here, so that a command imports only the part that it needs,
not the gateway.
"""

from packages.models import check_generated

# Checked first, also for parts that need no models, because a fresh clone lacks them.
check_generated()
