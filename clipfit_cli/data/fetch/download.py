"""One file from one address: resumed where it broke off, checked, and only then given its name."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import IO, Any

from clipfit_cli._version import __version__
from clipfit_cli.data.disk import readable_size, write_error
from clipfit_cli.errors import DataError

TIMEOUT_S = 30.0
"""Without a byte for so long, a connection counts as broken."""

PAUSES_S = (1.0, 2.0, 4.0, 8.0)
"""Before the tries that follow a failed one; any progress starts the row again."""

_BLOCK = 1 << 18
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_LINKED_ETAG = "X-Linked-Etag"
_SHA256 = re.compile(r"[0-9a-f]{64}")

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Received:
    """A finished download.

    Attributes:
        path: The file.
        size: Bytes.
        sha256: Of the content, hexadecimal.
        confirmed: Whether the content was held to a digest that was known beforehand, pinned or announced by the hub.
    """

    path: Path
    size: int
    sha256: str
    confirmed: bool


class _Broken(Exception):
    """A failure that may pass."""


def download(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    digest: str | None = None,
    before: Callable[[int | None, int], None] = lambda *_: None,
    progress: Progress = lambda *_: None,
    pauses: Sequence[float] | None = None,
) -> Received:
    """Fetch a file. What came of it before an error stays beside it, ``.part``, and the next call goes on from there.

    Args:
        url: ``http`` or ``https``.
        target: The file; its folder is there.
        size: Bytes that it must have.
        digest: ``sha256:...`` or ``md5:...`` that it must have.
        before: Called once with its size, as far as it is known, and the bytes that are there already; may refuse by
            raising.
        progress: Gets the bytes that are there and their total.
        pauses: Seconds before each further try; see `PAUSES_S`.

    Raises:
        DataError: The address does not answer or not with the file, or the file is another one. `NoSpaceError` where
            the disk is full.
    """
    part = _Part(target, url, size=size, digest=digest, before=before, progress=progress)
    waits = PAUSES_S if pauses is None else pauses
    failures, best = 0, part.have
    while True:
        try:
            part.receive()
            return part.finish()
        except _Broken as error:
            if part.have > best:
                failures, best = 0, part.have
            # Where nobody ever answered, patience would only hide that there is no network.
            if failures >= (len(waits) if part.answered else min(1, len(waits))):
                kept = f" ({readable_size(part.have)} are kept, the same command goes on from there)"
                raise DataError(f"{url}: {error}{kept if part.have else ''}") from error
            time.sleep(waits[failures])
            failures += 1


@dataclass
class _Part:
    """A file on its way."""

    target: Path
    url: str
    size: int | None
    digest: str | None
    before: Callable[[int | None, int], None]
    progress: Progress
    have: int = 0
    total: int | None = None
    etag: str | None = None
    linked: str | None = None
    answered: bool = False
    refusable: bool = True
    hashes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take up what an earlier call left, if it is of the same file."""
        self.path = self.target.with_name(self.target.name + ".part")
        self.notes = _notes_of(self.target)
        self._restart()
        try:
            notes = json.loads(self.notes.read_text(encoding="utf-8"))
            known = notes["url"] == self.url and (notes["etag"] or notes["linked"])
            if known and self.path.is_file():
                with self.path.open("rb") as file:
                    while block := file.read(_BLOCK):
                        self._count(block)
                self.etag, self.linked = notes["etag"], notes["linked"]
        except (OSError, ValueError, KeyError, TypeError):
            self._restart()

    def receive(self) -> None:
        """Ask for what is not there yet and write it."""
        redirects = _Redirects()
        try:
            with (
                urllib.request.build_opener(redirects).open(self._request(), timeout=TIMEOUT_S) as response,
                self._opened(response, redirects.linked_etag) as file,
            ):
                self._write(response, file)
        except urllib.error.HTTPError as error:
            error.close()
            self.answered = True
            if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{self.have}":
                return  # all of it was there already
            if error.code == 416:
                self._restart()
                raise _Broken("the server has another file than before") from error
            if error.code in _TRY_AGAIN:
                raise _Broken(f"the server answers {error.code} {error.reason}") from error
            raise DataError(f"{self.url}: the server answers {error.code} {error.reason}") from error
        except urllib.error.URLError as error:
            raise _Broken(f"no answer ({error.reason})") from error
        except (OSError, http.client.HTTPException) as error:
            raise _Broken(f"the connection broke off ({error or type(error).__name__})") from error

    def finish(self) -> Received:
        """Check the file and give it its name."""
        sha256 = self.hashes["sha256"].hexdigest()
        for expected in filter(None, (self.digest, self._announced())):
            kind, _, value = expected.partition(":")
            found = self.hashes[kind].hexdigest()
            if found != value:
                self.path.unlink(missing_ok=True)
                self.notes.unlink(missing_ok=True)
                raise DataError(
                    f"{self.url}: the file has the wrong {kind}, {found} instead of {value}; it was removed",
                    path=self.target,
                )
        try:
            self._note(sha256)
            self.path.replace(self.target)
        except OSError as error:
            raise write_error(error, self.target) from error
        confirmed = bool(self.digest or self._announced())
        return Received(self.target, self.have, sha256, confirmed)

    def _announced(self) -> str | None:
        """Return the digest that the hub tells of a large file before it sends it."""
        return f"sha256:{self.linked}" if self.linked and _SHA256.fullmatch(self.linked) else None

    def _request(self) -> urllib.request.Request:
        headers = {"User-Agent": f"clipfit/{__version__}", "Accept-Encoding": "identity"}
        if self.have:
            headers["Range"] = f"bytes={self.have}-"
            if self.etag and not self.linked:
                headers["If-Range"] = self.etag
        if not self.url.startswith(("https://", "http://")):
            raise DataError(f"{self.url} is no http or https address")
        return urllib.request.Request(self.url, headers=headers)

    def _opened(self, response: Any, linked: str | None) -> IO[bytes]:
        """Return the partial file at the place where the response goes on."""
        self.answered = True
        if response.headers.get_content_type() == "text/html":
            raise DataError(f"{self.url}: a web page came instead of the file (a download limit, or a log-in)")
        linked = (linked or "").strip('"') or None
        announced = f"sha256:{linked}"
        if (
            linked
            and _SHA256.fullmatch(linked)
            and (self.digest or "").startswith("sha256:")
            and announced != self.digest
        ):
            raise DataError(f"{self.url}: the hub has another file, {announced} instead of {self.digest}")
        if self.have and (response.status != 206 or not self._goes_on(response.headers, linked)):
            self._restart()
            if response.status == 206:
                raise _Broken("the server has another file than before")
        length = response.headers.get("Content-Length")
        self.total = self.have + int(length) if length else None
        if self.size is not None and self.total not in (None, self.size):
            raise DataError(f"{self.url}: the file has {self.total:,} bytes instead of {self.size:,}")
        etag = response.headers.get("ETag")
        self.etag = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
        self.linked = linked
        if self.refusable:
            self.before(self.total or self.size, self.have)
            self.refusable = False
        try:
            self._note()
            return self.path.open("ab" if self.have else "wb", buffering=0)
        except OSError as error:
            raise write_error(error, self.path) from error

    def _write(self, response: Any, file: IO[bytes]) -> None:
        self.progress(self.have, self.total)
        while block := response.read(_BLOCK):
            try:
                written = 0
                while written < len(block):
                    written += file.write(block[written:])
            except OSError as error:
                kept = f" ({readable_size(self.have)} of the download are kept, the same command goes on from there)"
                raise write_error(error, self.path, kept=kept) from error
            self._count(block)
            self.progress(self.have, self.total)
        if self.total is not None and self.have != self.total:
            raise _Broken(f"the connection broke off after {self.have:,} of {self.total:,} bytes")

    def _note(self, sha256: str | None = None) -> None:
        """Write down what the file is; the digest once all of it is there."""
        notes = {"url": self.url, "etag": self.etag, "linked": self.linked, "sha256": sha256}
        self.notes.write_text(json.dumps(notes), encoding="utf-8")

    def _goes_on(self, headers: Message, linked: str | None) -> bool:
        """Return whether a partial response begins where the file ends, and is of the same file."""
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range") or "")
        if not found or int(found[1]) != self.have or linked != self.linked:
            return False
        return self.total is None or found[2] in ("*", str(self.total))

    def _count(self, block: bytes) -> None:
        for known in self.hashes.values():
            known.update(block)
        self.have += len(block)

    def _restart(self) -> None:
        self.have, self.etag, self.linked = 0, None, None
        kinds = {"sha256", (self.digest or "sha256").partition(":")[0]}
        self.hashes = {kind: hashlib.new(kind, usedforsecurity=False) for kind in kinds}


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to http; keeps what the hub says of the file on the way."""

    linked_etag: str | None = None

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        """Return the next request."""
        self.linked_etag = headers.get(_LINKED_ETAG) or self.linked_etag
        if req.full_url.startswith("https://") and not newurl.startswith("https://"):
            raise DataError(f"{req.full_url}: sent on to {newurl}, which is not encrypted; refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def discard(received: Received) -> None:
    """Remove a finished download that is of no more use; a file that came otherwise stays."""
    notes = _notes_of(received.path)
    try:
        ours = json.loads(notes.read_text(encoding="utf-8"))["sha256"] == received.sha256
    except (OSError, ValueError, KeyError, TypeError):
        return
    if ours:
        received.path.unlink(missing_ok=True)
        notes.unlink(missing_ok=True)


def _notes_of(target: Path) -> Path:
    """Return the file beside a download that tells what it is."""
    return target.with_name(target.name + ".json")
