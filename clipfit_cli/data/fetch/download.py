"""One file from one address: resumed where it broke off, and given its name when all of it is there."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from clipfit_cli._version import __version__
from clipfit_cli.data.disk import disk_error, readable_size
from clipfit_cli.data.fetch.hub import TRY_AGAIN, reach
from clipfit_cli.errors import DataError
from clipfit_cli.files import write_whole

PAUSES_S = (1.0, 2.0, 4.0, 8.0)
"""Before the tries that follow a failed one; any progress starts the row again."""


PATIENCE_S, LEAST_PER_S = 60.0, 1000
"""A download to which fewer bytes a second are added over so long a time is given up, whatever the server does."""

MOST_BYTES = 200 * 10**9
"""Of a file of which nothing is known."""


class _Broken(Exception):
    """A failure that may pass."""


def download(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    digest: str | None = None,
    most: int = MOST_BYTES,
    progress: Callable[[int, int | None], None] = lambda *_: None,
) -> None:
    """Fetch a file. What came of it before an error stays beside it, ``.part``, and the next call goes on from there.

    Args:
        url: ``http`` or ``https``.
        target: The file, with a suffix; its folder is there.
        size: Bytes that it must have.
        digest: Of the content, where it is known: a part of it is continued from any store.
        most: Bytes that are taken at most, where the size is not known.
        progress: Gets the bytes that are there and their total, first before any are written; may refuse by raising.

    Raises:
        DataError: The address does not answer, is too slow, or has no file of that size. `NoSpaceError` where the disk
            is full.
    """
    reach(url)
    part = _Part(url, target, size, digest, most)
    failures, best = 0, part.have
    with part.watched():
        while True:
            try:
                part.receive(progress)
                break
            except _Broken as error:
                failures, best = (0, part.have) if part.have > best else (failures, best)
                if part.is_slow:
                    slow = f"for {PATIENCE_S:.0f} seconds, less than {LEAST_PER_S:,} bytes a second came"
                    raise DataError(f"{url}: {slow}; given up{part.kept()}") from error
                if failures >= len(PAUSES_S):
                    raise DataError(f"{error}{part.kept()}") from error
                time.sleep(PAUSES_S[failures])
                failures += 1
    part.path.replace(target)
    part.note.unlink(missing_ok=True)


class _Part:
    """A file on its way, and a note beside it of the address and of what tells that it is still the same file."""

    def __init__(self, url: str, target: Path, size: int | None, digest: str | None, most: int) -> None:
        self.url, self.size, self.digest, self.most = url, size, digest, most
        self.received, self.is_slow, self.sockets = 0, False, list[socket.socket]()
        self.path, self.note = target.with_suffix(".part"), target.with_suffix(".part.txt")
        text = self.note.read_text(encoding="utf-8", errors="replace") if self.note.is_file() else ""
        noted, _, self.tag = text.partition("\n")
        known = noted == url and self.tag and digest in (None, self.tag) and self.path.is_file()
        self.have = self.path.stat().st_size if known else 0

    def kept(self) -> str:
        return f" ({readable_size(self.have)} are kept, the same command goes on from there)" if self.have else ""

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Cut the connections where too little comes: a server can keep every read of the library waiting."""
        ended = threading.Event()

        def watch() -> None:
            received = self.received
            while not ended.wait(PATIENCE_S):
                self.is_slow = self.is_slow or self.received < received + LEAST_PER_S * PATIENCE_S
                received = self.received
                for connection in self.sockets if self.is_slow else ():
                    with suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)

        threading.Thread(target=watch, daemon=True).start()
        try:
            yield
        finally:
            ended.set()

    def receive(self, progress: Callable[[int, int | None], None]) -> None:
        """Ask for what is not there yet and write it."""
        if self.have and self.have == self.size:
            return
        with self._ask() as response:
            self._check(response, response.headers)
            progress(self.have, self.size)
            if not self.have:
                self.path.unlink(missing_ok=True)  # never an old part beside a new note
                write_whole(self.note, f"{self.url}\n{self.tag}")
            try:
                with self.path.open("ab", buffering=0) as file:
                    for block in self._blocks(response):
                        while block:
                            written = file.write(block)
                            self.have, block = self.have + written, block[written:]
                            self.received += written
                        progress(self.have, self.size)
                        if self.have > (limit := self.most if self.size is None else self.size):
                            raise DataError(f"{self.url}: more came than the {limit:,} bytes of the file")
            except OSError as error:
                raise disk_error(error, self.path, kept=self.kept()) from error
        if self.is_slow or self.size not in (None, self.have):
            raise _Broken(
                f"{self.url}: the connection broke off after {self.have:,} of {self.size or self.most:,} bytes"
            )

    def _ask(self) -> Any:
        headers = {"User-Agent": f"clipfit/{__version__}", "Accept-Encoding": "identity"}
        if self.have:
            headers["Range"] = f"bytes={self.have}-"
        if self.have and self.tag and not self.digest:  # where the content is known, another store of it will do
            headers["If-Range"] = self.tag
        try:
            return build_opener(_Redirects(), *(kind(self.sockets) for kind in (_Http, _Https))).open(
                Request(self.url, headers=headers), timeout=30
            )
        except HTTPError as error:
            error.close()
            self.have = 0 if error.code == 416 else self.have  # the server has another file than before
            kind = _Broken if error.code in (416, *TRY_AGAIN) else DataError
            raise kind(f"{self.url}: the server answers {error.code} {error.reason}") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise _Broken(f"{self.url}: no answer ({getattr(error, 'reason', error)})") from error

    def _check(self, response: Any, told: Message) -> None:
        """See that the file comes, where it begins, how long it is, and what tells it from another."""
        if told.get_content_type() == "text/html":
            raise DataError(f"{self.url}: a web page came instead of the file (a download limit, or a log-in)")
        if not told.get("Content-Range", "").startswith(f"bytes {self.have}-"):
            self.have = 0
            if response.status == 206:
                raise _Broken(f"{self.url}: the server sent another part than the one that was asked for")
        total = self.size if response.length is None else self.have + response.length
        if self.size not in (None, total):
            raise DataError(f"{self.url}: the file has {total:,} bytes instead of {self.size:,}")
        if (total or 0) > self.most:
            raise DataError(f"{self.url}: the file has {total:,} bytes, at most {self.most:,} were expected; refused")
        etag: str = told["ETag"] or "W/"
        self.size, self.tag = total, self.digest or (etag if etag[:2] != "W/" else told["Last-Modified"] or "")

    def _blocks(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        try:
            while block := response.read1(1 << 18):
                yield block
        except (OSError, http.client.HTTPException) as error:
            raise _Broken(f"{self.url}: the connection broke off ({error or type(error).__name__})") from error


class _Redirects(HTTPRedirectHandler):
    """Follows redirects, but never from https to anything else."""

    def redirect_request(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str) -> Any:
        if not newurl.startswith(("https://", f"{req.type}://")):
            raise DataError(f"{req.full_url}: sent on to {newurl}, which is not encrypted; refused")
        fp.close()  # else urllib reads all of the page that comes with it
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


class _Http(HTTPHandler):
    """Opens connections whose sockets are kept in a list, where another thread can cut them."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        super().__init__()
        self.sockets = sockets

    def do_open(self, http_class: Any, req: Request, **options: Any) -> Any:
        sockets = self.sockets

        class Connection(http_class):  # type: ignore[misc]
            def __setattr__(self, name: str, value: Any) -> None:
                if name == "sock" and value:  # before and after it is encrypted
                    sockets.append(value)
                super().__setattr__(name, value)

        return super().do_open(Connection, req, **options)


class _Https(_Http, HTTPSHandler):
    """The same over https."""
