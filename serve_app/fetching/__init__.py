"""What this server fetches from URLs that its clients name.

A URL comes from a client, and this server may stand where the client may not look: what it fetches must
not be something inside of its own network.
"""

from serve_app.fetching.client import AddressRefused, SystemResolver, guarded_client
from serve_app.fetching.fetcher import Fetcher

__all__ = ["AddressRefused", "Fetcher", "SystemResolver", "guarded_client"]
