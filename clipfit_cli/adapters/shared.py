"""Adapters of the Hugging Face hub: ``hf:ORG/NAME``, fetched once and checked."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

from clipfit_cli.engine.checkpoint import CARD_FILE, MOST_CARD, WEIGHTS_FILE, read_card
from clipfit_cli.errors import CheckpointError, ConfigError, ModelError, shortened
from clipfit_cli.files import file_sha256
from clipfit_cli.models.hub import SHARED_PREFIX, explained, plain_reason, reach, repository_of

_MOST_WEIGHTS = 1 << 36
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,199}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def check_repository(name: str) -> str:
    """Return the name of a repository of the hub.

    Raises:
        ConfigError: None can have that name.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
        if name.count("/") != 1:
            raise HFValidationError
    except HFValidationError:
        raise ConfigError(
            f"{shortened(name)!r} is no repository of the hub; expected ORG/NAME: letters, digits, and -, _ or . "
            "between them"
        ) from None
    return name


def check_revision(name: str) -> str:
    """Return the name of a branch, a tag or a commit.

    Raises:
        ConfigError: None can have that name.
    """
    if not _REVISION.fullmatch(name) or ".." in name:
        raise ConfigError(f"{shortened(name)!r} is no branch, tag or commit of a repository")
    return name


def parse_shared(text: str) -> tuple[str, str | None]:
    """Return repository and revision of ``hf:ORG/NAME`` or ``hf:ORG/NAME@REVISION``.

    Raises:
        ConfigError: It names no repository, or no revision.
    """
    name, at, revision = (repository_of(text) or "").partition("@")
    return check_repository(name), check_revision(revision) if at else None


def fetch_adapter(text: str, *, offline: bool = False, say: Callable[[str], None] | None = None) -> Path:
    """Return the folder of an adapter as the hub has it now or, where that is out of reach, as it was fetched.

    Both files are of one commit, and the tensors are those that the card names. What a commit is named for is fetched
    once.

    Args:
        text: ``hf:ORG/NAME`` or ``hf:ORG/NAME@REVISION``.
        offline: Do not touch the network.
        say: Told what is fetched, and where one that was fetched before is taken instead.

    Raises:
        ConfigError: See `parse_shared`.
        ModelError: It is not in the cache, and: the network is not to be touched or cannot be reached, access is
            restricted, or there is no such repository, revision or adapter.
        CheckpointError: It is larger than any adapter, or has other tensors than its card names.
    """
    from huggingface_hub import constants

    repository, revision = parse_shared(text)
    source = f"{constants.ENDPOINT}/{repository}"
    folder = _kept(repository, revision)
    is_offline = offline or constants.HF_HUB_OFFLINE
    if is_offline and not folder:
        raise ModelError(
            f"the adapter {text}: not in the local cache ({constants.HF_HUB_CACHE}), and the network is not to be "
            f"touched. {_copy(repository)}"
        )
    if not folder or not (is_offline or _COMMIT.fullmatch(revision or "")):
        folder = _newest(repository, revision, source, folder, say)
    _check(folder, source)
    return folder


def _newest(
    repository: str, revision: str | None, source: str, kept: Path | None, say: Callable[[str], None] | None
) -> Path:
    """Return the folder of what the hub has; of what is kept where the hub does not answer, or has no time."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RevisionNotFoundError

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # a retry is no news; the reason stands in the error
    try:
        reach(source)
        return _fetched(repository, revision or "main", source, say)
    except CheckpointError:
        raise
    except Exception as error:  # the hub, its transport and ssl each raise their own kinds
        status = getattr(getattr(error, "response", None), "status_code", None)
        if kept and (status is None or status == 429 or status >= 500):
            if say:
                say(f"{source} does not answer ({plain_reason(error)}): taking what was fetched before")
            return kept
        if isinstance(error, RevisionNotFoundError):
            raise ModelError(f"{source} has no branch, tag or commit {revision}") from error
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise ModelError(
                f"{source} holds no adapter of clipfit; expected {CARD_FILE} and {WEIGHTS_FILE}, as clipfit push "
                "writes them. A whole model is named with --pretrained"
            ) from error
        what = f"the adapter {SHARED_PREFIX}{repository}: not in the local cache"
        raise ModelError(explained(error, repository, source, what, _copy(repository))) from error


def _fetched(repository: str, revision: str, source: str, say: Callable[[str], None] | None) -> Path:
    """Return the folder of both files, of one commit; the card comes last, for it notes which commit the revision is.

    Raises:
        CheckpointError: One is larger than any, or the hub tells no commit.
        Exception: Whatever the hub's library raises.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    commit = revision
    for name, most in ((CARD_FILE, MOST_CARD), (WEIGHTS_FILE, _MOST_WEIGHTS)):
        known = get_hf_file_metadata(hf_hub_url(repository, name, revision=commit))
        commit = known.commit_hash or ""
        if not _COMMIT.fullmatch(commit):
            raise CheckpointError(f"{source} does not say of which commit its files are")
        if known.size is None or known.size > most:
            size = "a size that is not told" if known.size is None else f"{known.size:,} bytes"
            raise CheckpointError(f"{name} of {source} is refused: it has {size}, at most {most:,} are accepted")
    if say and _kept(repository, commit) is None:
        say(f"fetching the adapter {SHARED_PREFIX}{repository} from {source} ...")
    weights = Path(hf_hub_download(repository, WEIGHTS_FILE, revision=commit))
    card = Path(hf_hub_download(repository, CARD_FILE, revision=revision))
    if card.parent != weights.parent:  # somebody has pushed meanwhile
        hf_hub_download(repository, WEIGHTS_FILE, revision=card.parent.name)
    return card.parent


def _kept(repository: str, revision: str | None) -> Path | None:
    """Return the folder of an adapter that is in the local cache, whole."""
    from huggingface_hub import try_to_load_from_cache

    card = try_to_load_from_cache(repository, CARD_FILE, revision=revision)
    if not isinstance(card, str):
        return None
    folder = Path(card).parent
    return folder if os.path.isfile(folder / WEIGHTS_FILE) else None  # noqa: PTH113


def _check(folder: Path, source: str) -> None:
    """Do nothing for an adapter whose tensors are those that its card names.

    Raises:
        CheckpointError: They are others, the card names none, or is no card.
    """
    card = read_card(folder)
    try:
        own = file_sha256(folder / WEIGHTS_FILE)
    except OSError as error:
        raise CheckpointError(f"{folder / WEIGHTS_FILE} cannot be read: {error.strerror or error}") from error
    if card.adapter_sha256 != own:
        raise CheckpointError(
            f"the adapter of {source} is refused: {WEIGHTS_FILE} is not the file that its card names. If it was "
            f"damaged on the way, remove {folder} and fetch it again"
        )


def _copy(repository: str) -> str:
    return (
        f"On a machine with access run `hf download {repository}` and copy its cache folder (~/.cache/huggingface, or "
        "HF_HOME), or the two files, here"
    )
