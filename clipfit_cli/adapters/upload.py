"""A folder into a repository of the Hugging Face hub: in one commit, or not at all."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from clipfit_cli.adapters.run_summary import MOST_SUMMARY, SUMMARY_FILE, Kind
from clipfit_cli.adapters.shared import check_repository, check_revision
from clipfit_cli.errors import ClipfitError, ConfigError, ResultsError, shortened
from clipfit_cli.files import read_bytes
from clipfit_cli.models.hub import plain_reason, reach

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_OF_THE_HUB = {".gitattributes"}
_PATIENCE_S = 120.0
_LOGIN = "run `hf auth login`, or set HF_TOKEN, with a token that may write"

_REFUSALS = {
    401: f"the hub does not know the token; {_LOGIN}",
    403: f"the token may not write there; check the name of the user or organization, or {_LOGIN}",
    404: "there is no such user or organization, or the token may not see it; check the name",
    409: "the name is taken by what the token may not see, or somebody is writing to it; name another one",
    412: "somebody has written to it meanwhile; look what it is, and push again",
    413: "the hub refuses so large a file",
    429: "the hub is asked too often; try again later",
}
"""Status of an answer -> what it means, and what to do."""

_NOT_UNDERSTOOD = ValueError, LookupError, TypeError, AttributeError
"""What the hub's library raises where an answer is not in the hub's form, as the log-in page of a network is not."""


@dataclass(frozen=True)
class Target:
    """Where a folder goes.

    Attributes:
        repository: ``ORG/NAME``; it is made if it is not there.
        revision: Branch; it is made if it is not there. None = ``main``.
        private: A repository that is made is for its owner alone; one that is there has to be.
        force: Go into a repository that holds something else.
    """

    repository: str
    revision: str | None = None
    private: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        check_repository(self.repository)
        if self.revision is not None:
            check_revision(self.revision)


class Earlier(msgspec.Struct):
    """What is read of the summary of an earlier push."""

    kind: Kind
    run_key: str
    files: dict[str, str]


@dataclass(frozen=True)
class Found:
    """What is in a place already.

    Attributes:
        commit: The newest; None where there is no such repository.
        has_branch: Whether the branch is there; else it is made of ``main``, which is what the rest is of.
        names: Of files.
        earlier: What an earlier push wrote; None where there was none.
    """

    commit: str | None = None
    has_branch: bool = True
    names: frozenset[str] = frozenset()
    earlier: Earlier | None = None


class Uploader:
    """A user of the hub who may write to a place."""

    def __init__(self, target: Target) -> None:
        """Look whether the user may write there, and what is there.

        Args:
            target: The place.

        Raises:
            ConfigError: There is no token; or the repository holds something else, is public, or has been renamed.
            ResultsError: The hub cannot be reached, or refuses.
        """
        from huggingface_hub import HfApi, constants, get_session, get_token

        get_session().timeout = _PATIENCE_S  # the library waits for ever
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        self.target = target
        self.address = f"{constants.ENDPOINT}/{target.repository}"
        with self._explained():
            token = get_token()
        if not token:
            raise ConfigError(f"there is no token for {constants.ENDPOINT}: {_LOGIN}")
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise ConfigError(f"the token for {constants.ENDPOINT} holds characters that no token has: {_LOGIN}")
        self._api: HfApi = HfApi(endpoint=constants.ENDPOINT, token=token, library_name="clipfit")
        with self._explained():
            reach(self.address)
            self._check_user(self._api.whoami())
            self.found = self._look()

    def check_free(self, kind: Kind, run_key: str) -> None:
        """Do nothing where the place is empty, a branch to be made, holds what this run wrote, or is to be overwritten.

        Raises:
            ConfigError: It holds something else.
        """
        found, others = self.found, sorted(self.found.names - _OF_THE_HUB)
        is_own = found.earlier and (
            not found.has_branch or (found.earlier.kind, found.earlier.run_key) == (kind, run_key)
        )
        if self.target.force or not others or is_own:
            return
        held = f"run {found.earlier.run_key[:12]} ({found.earlier.kind})" if found.earlier else ", ".join(others)
        raise ConfigError(
            f"{self.address} is taken: it holds {shortened(held)}. Name another repository, or write into this one "
            "with --force; its history keeps what is there"
        )

    def upload(self, folder: Path, message: str) -> str:
        """Put the files of a folder into the place, in one commit, and return its address.

        What an earlier push wrote and this one does not is removed; files of others stay.

        Args:
            folder: Without folders in it.
            message: Of the commit.

        Raises:
            ResultsError: The hub cannot be reached, refuses, or does not take all files.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        target, api = self.target, self._api
        sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        old = {*self.found.earlier.files} & self.found.names if self.found.earlier else set()
        operations: list[Any] = [CommitOperationAdd(name, str(folder / name)) for name in sizes]
        operations += [CommitOperationDelete(name) for name in sorted(old - sizes.keys())]
        with self._explained(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the hub remarks on a page
            if self.found.commit is None:
                api.create_repo(target.repository, private=target.private or None)
            if target.revision and not self.found.has_branch:
                api.create_branch(target.repository, branch=target.revision)
            commit = api.create_commit(
                target.repository,
                operations,
                commit_message=message,
                revision=target.revision,
                parent_commit=self.found.commit if self.found.has_branch else None,
            )
            stored = api.model_info(target.repository, revision=commit.oid, files_metadata=True).siblings or []
        taken = {one.rfilename: one.size for one in stored}
        if lacking := sorted(name for name, size in sizes.items() if taken.get(name) != size):
            raise ResultsError(
                f"{self.address} did not take {', '.join(lacking)}: a .gitignore in it may leave them out. Remove that "
                "and push again"
            )
        return f"{self.address}/tree/{target.revision}" if target.revision else self.address

    def _check_user(self, user: Mapping[str, Any]) -> None:
        """Refuse a token that can only read, before anything is made."""
        access = user.get("auth") or {}
        role = (access.get("accessToken") or {}).get("role") if isinstance(access, dict) else None
        if role == "read":
            raise ResultsError(f"the token of {user.get('name')} can read and not write: {_LOGIN}")

    def _look(self) -> Found:
        """Return what is in the place.

        Raises:
            ConfigError: The repository is public and should be private, or has another name now.
            Exception: Whatever the hub's library raises.
        """
        from huggingface_hub import constants
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        target, has_branch = self.target, True
        try:
            info = self._api.model_info(target.repository, files_metadata=True)
        except RepositoryNotFoundError:
            return Found(has_branch=target.revision in (None, constants.DEFAULT_REVISION))
        if info.id != target.repository:
            raise ConfigError(f"{self.address} is called {shortened(info.id)} now; give that name")
        if target.private and not info.private:
            raise ConfigError(
                f"{self.address} is there and public: make it private in its settings, or leave out --private"
            )
        if target.revision:
            try:
                info = self._api.model_info(target.repository, revision=target.revision, files_metadata=True)
            except RevisionNotFoundError:
                has_branch = False
        sizes = {one.rfilename: one.size or 0 for one in info.siblings or ()}
        return Found(info.sha, has_branch, frozenset(sizes), self._earlier(info.sha, sizes.get(SUMMARY_FILE)))

    def _earlier(self, commit: str | None, size: int | None) -> Earlier | None:
        """Return what an earlier push wrote; None where the file is not there, or not of a push."""
        if size is None or size > MOST_SUMMARY:
            return None
        path = self._api.hf_hub_download(self.target.repository, SUMMARY_FILE, revision=commit)
        try:
            return msgspec.json.decode(read_bytes(Path(path), MOST_SUMMARY), type=Earlier)
        except (ValueError, RecursionError):
            return None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Make of what the hub refuses, and of a network that is not there, a message."""
        try:
            yield
        except ClipfitError:
            raise
        except Exception as error:  # the hub, its transport and ssl each raise their own kinds
            if (status := _status(error)) in _REFUSALS:
                raise ResultsError(f"{self.address}: {_REFUSALS[status]}") from None
            if isinstance(error, ValueError) and "metadata" in plain_reason(error):
                more = " ".join(str(error).split())
                raise ConfigError(f"the hub refuses the page of {self.address}: {shortened(more)}") from None
            cause: BaseException = error
            while cause.__cause__ and not _status(cause):  # the library's own words hide what the store of files said
                cause = cause.__cause__
            if status := _status(cause):
                what = f"the hub answers {status}"
            else:
                what = "what answers is no hub" if isinstance(cause, _NOT_UNDERSTOOD) else "it cannot be reached"
            raise ResultsError(f"{self.address}: {what} ({plain_reason(cause)})") from None


def _status(error: BaseException) -> int | None:
    """Return the status of the answer that an error is about; None where there was none."""
    return getattr(getattr(error, "response", None), "status_code", None)
