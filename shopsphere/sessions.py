"""HTTP sessions in which one part of ShopSphere asks another, with `requests`."""

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

RETRIES = Retry(
    status_forcelist=(502, 503, 504),
    allowed_methods=None,  # every request of ours is safe to repeat
    raise_on_status=False,
)
"""What is sent again; `RETRIES.new(total=...)` says how often."""
NEVER_AGAIN = Retry(0, read=False, raise_on_status=False)
"""Without `read=False`, requests calls an answer that does not come a ConnectionError."""


def session(retries: Retry) -> requests.Session:
    """Return a session that sends again as `retries` says, and takes nothing from elsewhere."""
    opened = requests.Session()
    opened.trust_env = False  # no proxy, and no password from a .netrc
    for scheme in ("http://", "https://"):
        opened.mount(scheme, HTTPAdapter(max_retries=retries))
    return opened
