"""One file from one address: resumed where it broke off, and given its name when all of it is there."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from typing import IO, Any

from clipfit_cli._version import __version__
from clipfit_cli.data.disk import disk_error, readable_size
from clipfit_cli.data.fetch.hub import reach
from clipfit_cli.errors import DataError
from clipfit_cli.files import write_whole

TIMEOUT_S = 30.0
"""Without a byte for so long, a connection counts as broken."""

PAUSES_S = (1.0, 2.0, 4.0, 8.0)
"""Before the tries that follow a failed one; any progress starts the row again."""

_TRY_AGAIN = {408, 416, 425, 429, 500, 502, 503, 504}

Told = Callable[[int, int | None], None]
"""Gets the bytes that are there, and their total where it is known."""


class _Broken(Exception):
    """A failure that may pass."""


def download(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    digest: str | None = None,
    before: Told = lambda *_: None,
    progress: Told = lambda *_: None,
) -> None:
    """Fetch a file. What came of it before an error stays beside it, ``.part``, and the next call goes on from there.

    Args:
        url: ``http`` or ``https``.
        target: The file, with a suffix; its folder is there.
        size: Bytes that it must have.
        digest: Of the content, where it is known: a part of it is continued from any store.
        before: Called before bytes are written; may refuse by raising.
        progress: Called while they come.

    Raises:
        DataError: The address does not answer, or not with a file of that size. `NoSpaceError` where the disk is full.
    """
    reach(url)
    part = _Part(url, target, size, digest)
    failures, best = 0, part.have
    while True:
        try:
            part.receive(before, progress)
            break
        except _Broken as error:
            if part.have > best:
                failures, best = 0, part.have
            if failures >= len(PAUSES_S):
                raise DataError(f"{url}: {error}{part.kept()}") from error
            time.sleep(PAUSES_S[failures])
            failures += 1
    part.path.replace(target)
    part.note.unlink(missing_ok=True)


class _Part:
    """A file on its way, and a note beside it of the address and of what tells that it is still the same file."""

    def __init__(self, url: str, target: Path, size: int | None, digest: str | None) -> None:
        self.url, self.size, self.digest = url, size, digest
        self.path, self.note = target.with_suffix(".part"), target.with_suffix(".part.txt")
        text = self.note.read_text(encoding="utf-8", errors="replace") if self.note.is_file() else ""
        noted, _, self.tag = text.partition("\n")
        known = noted == url and self.tag and digest in (None, self.tag) and self.path.is_file()
        self.have = self.path.stat().st_size if known else 0

    def kept(self) -> str:
        return f" ({readable_size(self.have)} are kept, the same command goes on from there)" if self.have else ""

    def receive(self, before: Told, progress: Told) -> None:
        """Ask for what is not there yet and write it."""
        response = None if self.have and self.have == self.size else self._ask()
        if response is None:
            return
        with response:
            before(self.have, self.size)
            if not self.have:
                self.path.unlink(missing_ok=True)  # never an old part beside a new note
                write_whole(self.note, f"{self.url}\n{self.tag}")
            try:
                with self.path.open("ab", buffering=0) as file:
                    for block in _blocks(response):
                        progress(self.have, self.size)
                        while block:
                            written = file.write(block)
                            self.have, block = self.have + written, block[written:]
                        if self.size is not None and self.have > self.size:
                            raise DataError(f"{self.url}: more came than the {self.size:,} bytes of the file")
            except OSError as error:
                raise disk_error(error, self.path, kept=self.kept()) from error
        progress(self.have, self.size)
        if self.size not in (None, self.have):
            raise _Broken(f"the connection broke off after {self.have:,} of {self.size:,} bytes")

    def _ask(self) -> Any:
        """Return the answer, which begins where the part ends; None where all of the file is there already."""
        headers = {"User-Agent": f"clipfit/{__version__}", "Accept-Encoding": "identity"}
        if self.have:
            headers |= {"Range": f"bytes={self.have}-"} | (
                {} if self.digest or not self.tag else {"If-Range": self.tag}
            )
        try:
            request = urllib.request.Request(self.url, headers=headers)
            response = urllib.request.build_opener(_Redirects()).open(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{self.have}":
                return None
            if error.code not in _TRY_AGAIN:
                raise DataError(f"{self.url}: the server answers {error.code} {error.reason}") from error
            self.have = 0 if error.code == 416 else self.have  # another file than before
            raise _Broken(f"the server answers {error.code} {error.reason}") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise _Broken(f"no answer ({getattr(error, 'reason', error)})") from error
        told = response.headers
        if told.get_content_type() == "text/html":
            raise DataError(f"{self.url}: a web page came instead of the file (a download limit, or a log-in)")
        if not told.get("Content-Range", "").startswith(f"bytes {self.have}-"):
            self.have = 0
            if response.status == 206:
                raise _Broken("the server sent another part than the one that was asked for")
        total = self.size if response.length is None else self.have + response.length
        if self.size not in (None, total):
            raise DataError(f"{self.url}: the file has {total:,} bytes instead of {self.size:,}")
        etag = told.get("ETag", "W/")
        self.size, self.tag = total, self.digest or (told.get("Last-Modified", "") if etag[:2] == "W/" else etag)
        return response


def _blocks(response: IO[bytes]) -> Iterator[bytes]:
    try:
        while block := response.read(1 << 18):
            yield block
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(f"the connection broke off ({error or type(error).__name__})") from error


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to anything else."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        """Return the next request."""
        if not newurl.startswith(("https://", f"{req.type}://")):
            raise DataError(f"{req.full_url}: sent on to {newurl}, which is not encrypted; refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]
