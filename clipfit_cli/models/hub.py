"""Files of the Hugging Face hub: from the local cache, else fetched, with an error for each way that fails."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from clipfit_cli.errors import ModelError, first_line

HUB_PREFIXES = ("hf:", "hf-hub:")
"""Before the name of a repository: ours, and open_clip's, which means the same."""

SHARED_PREFIX = HUB_PREFIXES[0]
"""Before the name of a repository that holds an adapter; a folder of such a name is written ``./hf:...``."""

_OFFLINE_VARIABLE = "HF_HUB_OFFLINE"
_PATIENCE_S = 10
_SECRET = re.compile(r"""(Bearer\s+|https?://[^\s?'"]*\?)[^\s'"]+""", flags=re.IGNORECASE)


def fetch(
    repository: str,
    names: Sequence[str],
    *,
    in_order: bool = False,
    what: str,
    instead: str = "",
    offline: bool = False,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Return the first of these files that a repository has: out of the local cache, else downloaded into it.

    Args:
        repository: ``org/name``.
        names: In order of preference; a cached one goes before a better one that is not.
        in_order: The repository is asked for a better one first, where it can be.
        what: What the file is, for messages.
        instead: What else a user can do where it is not to be had.
        offline: Do not touch the network.
        say: Told what is fetched, if it has to be.

    Raises:
        ModelError: It is not in the cache, and: the network is not to be touched or cannot be reached, access to the
            repository is restricted, or there is no such repository or file.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

    is_closed = offline or constants.HF_HUB_OFFLINE
    try:
        cached = find_cached(repository, names)
        if cached and (is_closed or not in_order or known_best(repository, names)):
            return cached
    except HFValidationError:
        raise ModelError(f"{repository!r} is no repository of the hub; expected {HUB_PREFIXES[0]}ORG/NAME") from None
    source = f"{constants.ENDPOINT}/{repository}"
    copy = (
        f"On a machine with access run `hf download {repository}` and copy its cache folder "
        f"(~/.cache/huggingface, or HF_HOME) here{instead and f'; or {instead}'}"
    )
    if is_closed:
        raise ModelError(
            f"{what}: not in the local cache ({constants.HF_HUB_CACHE}), and the network is not to be touched "
            f"(--offline, or {_OFFLINE_VARIABLE} is set). {copy}"
        )
    if say and not cached:
        say(f"fetching {what} from {source} ...")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # a retry is no news; the reason stands in the error
    try:
        reach(source)
        for name in names:
            try:
                return Path(hf_hub_download(repository, name))
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                continue
    except Exception as error:  # the hub, its transport and ssl each raise their own kinds
        if cached:
            return cached
        raise ModelError(explained(error, repository, source, f"{what}: not in the local cache", copy)) from error
    raise ModelError(
        f"{source} has no {' and no '.join(names)}; expected a model of open_clip's or of transformers'"
        f"{instead and f', or {instead}'}"
    )


def find_cached(repository: str, names: Sequence[str]) -> Path | None:
    """Return the first of these files of a repository that is in the local cache.

    Raises:
        huggingface_hub.errors.HFValidationError: That is no name of a repository.
    """
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(repository, name) for name in names)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def known_best(repository: str, names: Sequence[str]) -> bool:
    """Return whether the first of these files that is cached is the best that the repository has, as far as known."""
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(repository, name) for name in names]
    return isinstance(next((one for one in found if one is None or isinstance(one, str)), None), str)


def fetch_if_any(repository: str, name: str, *, offline: bool = False) -> Path | None:
    """Return a file of a repository that it need not have, as `fetch` does; None where it has none.

    Where the network cannot be reached, what is not cached counts as not there: what must be there is fetched first.

    Raises:
        ModelError: The hub answers, and refuses.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    found = try_to_load_from_cache(repository, name)
    if isinstance(found, str):
        return Path(found)
    if found is not None or offline or constants.HF_HUB_OFFLINE:  # it is known that there is none, or nobody can tell
        return None
    source = f"{constants.ENDPOINT}/{repository}"
    try:
        reach(source)
    except OSError:
        return None
    try:
        return Path(hf_hub_download(repository, name))
    except Exception as error:  # the hub, its transport and ssl each raise their own kinds
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None
        raise ModelError(explained(error, repository, source, f"{name}: not in the local cache", "")) from error


def repository_of(text: str) -> str | None:
    """Return the repository that a text means, ``org/name``; None where it has no prefix of the hub."""
    return next((text[len(prefix) :] for prefix in HUB_PREFIXES if text.startswith(prefix)), None)


@contextmanager
def network_closed() -> Iterator[None]:
    """Let nothing that stands on the hub's library reach the network meanwhile: tokenizers, data sets."""
    from huggingface_hub import constants

    before, variable = constants.HF_HUB_OFFLINE, os.environ.get(_OFFLINE_VARIABLE)
    constants.HF_HUB_OFFLINE, os.environ[_OFFLINE_VARIABLE] = True, "1"  # libraries that are not imported yet ask it
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        os.environ.pop(_OFFLINE_VARIABLE)
        os.environ |= {} if variable is None else {_OFFLINE_VARIABLE: variable}


def explained(error: BaseException, repository: str, source: str, missing: str, copy: str) -> str:
    """Return what the hub means by refusing; where it did not, why it could not be reached.

    Args:
        error: What the hub's library raised.
        repository, source: Name and address.
        missing: What is not here.
        copy: What to do where the hub cannot be reached.
    """
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, GatedRepoError):
        return f"access to {repository} is restricted: accept its licence at {source}, then run `hf auth login`"
    if isinstance(error, RepositoryNotFoundError) or status == 401:
        return (
            f"there is no repository {repository} at {source}, or it is private: check its name, or run "
            "`hf auth login` with an account that may read it"
        )
    while error.__cause__ is not None:  # the hub's own words hide that of the transport
        error = error.__cause__
    return f"{missing}, and could not be fetched from {source} ({plain_reason(error)}). {copy}"


def plain_reason(error: BaseException) -> str:
    """Return the first line of what the hub or its library says, without the user's token and what signs an address."""
    from huggingface_hub import get_token

    text = _SECRET.sub(r"\1...", str(error).strip() or type(error).__name__)
    with suppress(Exception):  # one that is asked for elsewhere may not be had
        text = text.replace(get_token() or "\0", "...")
    return first_line(Exception(text))


def reach(source: str) -> None:
    """Fail at once where the source, or the proxy on the way to it, does not answer; the library would try for 20 s.

    Raises:
        OSError: There is no such host from here, or it does not answer.
    """
    parts, proxies = urlsplit(source), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if parts.hostname:
        address = parts.hostname, parts.port or (80 if parts.scheme == "http" else 443)
        socket.create_connection(address, timeout=_PATIENCE_S).close()
