"""A web server on this machine that plays a mirror, or the hub, with the faults of real ones."""

from __future__ import annotations

import io
import re
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Mirror:
    """What is served, how, and what was asked for.

    Attributes:
        url: Of the server, without a slash at the end.
        files: Path with its query -> content.
        cuts: Path -> after how many bytes the next answers break off, one number each.
        statuses: Path -> status of the next answers, one each.
        redirects: Path -> where to.
        linked_etag: Sent with redirects, as the hub does.
        lengths: Whether it tells how long a file is.
        etags: Whether a file has one.
        ranges: Whether a part of a file can be asked for.
        content_type: Of all files.
        requests: Path, ``Range`` header and number of bytes sent of every answer.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    linked_etag: str | None = None
    lengths: bool = True
    etags: bool = True
    ranges: bool = True
    content_type: str = "application/octet-stream"
    requests: list[tuple[str, str | None, int]] = field(default_factory=list)

    def asked(self, path: str) -> list[str | None]:
        """Return the ``Range`` headers of the requests for a path."""
        return [asked for there, asked, _ in self.requests if there == path]

    @property
    def sent(self) -> int:
        """Bytes sent in all."""
        return sum(count for _, _, count in self.requests)


@contextmanager
def serving() -> Iterator[Mirror]:
    """Run a mirror on a free port of 127.0.0.1."""
    mirror = Mirror()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            if target := mirror.redirects.get(self.path):
                told = {"X-Linked-Etag": mirror.linked_etag, "X-Repo-Commit": "0" * 40, "Content-Length": "0"}
                self._head(302, {"Location": target, **told})
                return
            statuses = mirror.statuses.get(self.path)
            content = mirror.files.get(self.path)
            if statuses or content is None:
                status = statuses.pop(0) if statuses else 404
                mirror.requests.append((self.path, asked, 0))
                self._head(status, {"Content-Length": "0"})
                return
            etag = f'"{sha256(content).hexdigest()[:16]}"' if mirror.etags else None
            start = self._start(asked, etag)
            if start is not None and start >= len(content):
                mirror.requests.append((self.path, asked, 0))
                self._head(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
                return
            body = content[start or 0 :]
            length = str(len(body)) if mirror.lengths else None
            headers = {"Content-Length": length, "ETag": etag, "Content-Type": mirror.content_type}
            if start is not None:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            cuts = mirror.cuts.get(self.path)
            if cuts:
                body = body[: cuts.pop(0)]
            body = b"" if self.command == "HEAD" else body
            mirror.requests.append((self.path, asked, len(body)))
            self._head(200 if start is None else 206, headers)
            with suppress(ConnectionError):  # who asked may have left
                self.wfile.write(body)

        def _start(self, asked: str | None, etag: str | None) -> int | None:
            found = re.fullmatch(r"bytes=(\d+)-", asked or "")
            condition = self.headers.get("If-Range")
            return int(found[1]) if found and mirror.ranges and condition in (None, etag) else None

        def _head(self, status: int, headers: Mapping[str, str | None]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if value is not None:
                    self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        mirror.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield mirror
        finally:
            server.shutdown()
            thread.join()


def zip_of(files: Mapping[str, bytes]) -> bytes:
    """Return a zip archive."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return memory.getvalue()


def tar_of(files: Mapping[str, bytes], *special: tarfile.TarInfo, mode: str = "w:gz") -> bytes:
    """Return a tar archive of files, then of members without content."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in special:
            archive.addfile(info)
    return memory.getvalue()


def files_below(folder: Path) -> dict[str, bytes]:
    """Return path -> content of all files below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
