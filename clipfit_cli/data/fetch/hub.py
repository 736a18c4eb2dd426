"""What can be known of a file before it is fetched: whether its host answers, and what the hub tells of it."""

from __future__ import annotations

import re
import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

from clipfit_cli.data.sources import HUB, Source
from clipfit_cli.errors import DataError, first_line

PATIENCE_S = 3.0
"""A host whose addresses are all silent for so long is not to be reached: most often there is a firewall."""

TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
"""What a server answers that is busy; another time it may not be."""


def reach(url: str) -> None:
    """Fail soon where an address cannot be reached, which others would try for minutes; a proxy may reach it.

    Raises:
        DataError: It is not one of the web, there is no such host from here, or it does not answer.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("not an http or https address")
        if not {parts.scheme, "all"} & getproxies().keys():
            port = parts.port or (80 if parts.scheme == "http" else 443)
            socket.create_connection((parts.hostname, port), timeout=PATIENCE_S).close()
    except (OSError, ValueError) as error:
        raise DataError(f"{url}: no answer ({error})") from error


def located(source: Source) -> tuple[str, int | None, str | None]:
    """Return the address of an archive and, as far as they are known, its size and digest; of one on the hub it tells.

    The library itself does not fetch it: it keeps nothing of a file that broke off.

    Raises:
        DataError: The hub cannot be reached, does not have the file, or has another one.
    """
    url, pinned = source.url, source.digest
    if not url.startswith(HUB):
        return url, source.size, pinned
    from huggingface_hub import constants, get_hf_file_metadata

    url = url.replace(HUB, constants.ENDPOINT + "/", 1)
    reach(url)
    try:
        known = get_hf_file_metadata(url, token=False)
    except Exception as error:  # the hub, its transport and ssl each raise their own kinds
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in TRY_AGAIN:
            return url, source.size, pinned  # who fetches it has more patience
        raise DataError(f"{url}: {f'the hub answers {status}' if status else first_line(error)}") from error
    digest = f"sha256:{known.etag}" if re.fullmatch(r"[0-9a-f]{64}", known.etag or "") else None
    if digest and pinned and pinned.startswith("sha256:") and digest != pinned:
        raise DataError(f"{url}: the hub has another file, {digest} instead of {pinned}")
    return url, source.size or known.size, pinned or digest
