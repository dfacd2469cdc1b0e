"""The composition root: the one place that builds services, pools and background work.

A module for each part and no name here, so that a command imports the part that it needs, and not
the gateway along with it.
"""

from packages.models import check_generated

# Of all that a fresh clone may lack this is told first, also by parts that need no models.
check_generated()
