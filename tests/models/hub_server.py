"""A Hugging Face hub of a test's own, on this machine: what is read of it, and what is written to it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from huggingface_hub import constants

COMMIT = "0" * 40
TOKEN = "hf_secretOfTheTest"


@dataclass
class Hub:
    """What is served, and what was asked for.

    Attributes:
        cache: The client's cache folder.
        files: Repository -> file name -> content, of its branch ``main``.
        branches: Repository and branch -> the same of other branches.
        commits: Repository -> the newest commit; where none is named, all zeros.
        older: Repository and commit -> what was in it.
        private: Repositories that only who has the token sees.
        ignored: Names that a .gitignore leaves out.
        refusals: Repository, or end of a path -> status and the hub's code of the error.
        role: Of the token: write or read.
        complaint: What the hub has against the page of a model; nothing = it is fine.
        asked: Method and path of each request so far.
        bodies: Path -> what was sent to it last.
        stored: Digest -> what was sent to the store of large files.
        address: Where it is, while it is served.
    """

    cache: Path
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=dict)
    older: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    ignored: set[str] = field(default_factory=set)
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    role: str = "write"
    complaint: str = ""
    asked: list[str] = field(default_factory=list)
    bodies: dict[str, bytes] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    address: str = ""

    def at(self, repository: str, revision: str) -> dict[str, bytes] | None:
        """Return the files of a branch or commit; None where there is no such."""
        if revision in ("main", self.commits.get(repository, COMMIT)):
            return self.files.get(repository)
        named = {self.commit_of(*place): files for place, files in self.branches.items() if place[0] == repository}
        return self.branches.get((repository, revision), self.older.get((repository, revision), named.get(revision)))

    def commit_of(self, repository: str, revision: str) -> str:
        """Return the commit that a branch or commit is."""
        if files := self.branches.get((repository, revision)):
            return hashlib.sha1(repr((revision, files)).encode()).hexdigest()
        return self.commits.get(repository, COMMIT) if revision == "main" else revision

    def put(self, repository: str, files: dict[str, bytes]) -> str:
        """Make a commit on ``main`` and return it; what was there stays under its own commit."""
        if repository in self.files:
            self.older[repository, self.commits.get(repository, COMMIT)] = self.files[repository]
        self.files[repository] = files
        self.commits[repository] = hashlib.sha1(repr((len(self.older), files)).encode()).hexdigest()
        return self.commits[repository]


@contextmanager
def serve(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the hub's library ask this hub meanwhile, with an empty cache of its own."""

    class Handler(BaseHTTPRequestHandler):
        @property
        def knows_token(self) -> bool:
            return self.headers.get("Authorization") == f"Bearer {TOKEN}"

        def _read(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            if self.path.startswith("/api/"):
                return self._api(*self.path.removeprefix("/api/").split("?")[0].split("/"))
            repository, _, rest = self.path.strip("/").partition("/resolve/")
            revision, _, file = rest.partition("/")
            revision = revision.replace("%2F", "/")
            if self._refused(repository) or self._hidden(repository):
                return None
            files = hub.at(repository, revision)
            if files is None:
                return self._refuse(404, "RevisionNotFound")
            if file not in files:
                return self._refuse(404, "EntryNotFound")
            content = files[file]
            self.send_response(200)
            self.send_header("X-Repo-Commit", hub.commit_of(repository, revision))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)
            return None

        def _api(self, *parts: str) -> None:
            """Tell who asks, or what is in a repository."""
            if self._refused(self.path):
                return None
            if parts[0] == "whoami-v2":
                if not self.knows_token:
                    return self._refuse(401, "")
                access = {"displayName": "test", "role": hub.role}
                return self._json({"name": "tester", "auth": {"type": "access_token", "accessToken": access}})
            repository, revision = "/".join(parts[1:3]), "/".join(parts[4:]).replace("%2F", "/") or "main"
            if self._refused(repository) or self._hidden(repository):
                return None
            files = hub.at(repository, revision)
            if files is None:
                return self._refuse(404, "RevisionNotFound")
            siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
            plain = {"_id": "1", "id": repository, "private": repository in hub.private, "siblings": siblings}
            return self._json({**plain, "sha": hub.commit_of(repository, revision), "tags": [], "downloads": 0})

        def _write(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.bodies[self.path] = body
            if self.path.startswith("/store/"):  # an address that is signed, and takes no token
                if not self._refused("/store/"):
                    hub.stored[self.path.removeprefix("/store/").split("?")[0]] = body
                    self._json({})
            elif self._refused(self.path) or self._refused(self.path.rpartition("/")[0]):
                pass
            elif not self.knows_token:
                self._refuse(401, "")
            elif hub.role != "write":
                self._refuse(403, "")
            else:
                self._change(body)

        def _change(self, body: bytes) -> None:
            """Do what somebody asks who may write."""
            parts = self.path.strip("/").split("/")
            if self.path == "/api/validate-yaml":
                if hub.complaint:
                    return self._json({"errors": [{"message": hub.complaint}], "warnings": []}, 400)
                return self._json({"errors": [], "warnings": [{"message": "the page could say more"}]})
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                repository = f"{asked['organization']}/{asked['name']}"
                if repository in hub.files:
                    return self._refuse(409, "")
                hub.put(repository, {".gitattributes": b"*.safetensors filter=lfs\n"})
                hub.private |= {repository} if asked.get("visibility") == "private" else set()
                return self._json({"url": f"{hub.address}/{repository}"})
            if self.path.endswith(".git/info/lfs/objects/batch"):
                objects = [
                    {**one, "actions": {"upload": {"href": f"{hub.address}/store/{one['oid']}?signed=secretSignature"}}}
                    for one in json.loads(body)["objects"]
                ]
                return self._json({"objects": objects, "transfer": "basic"})
            repository, what, branch = "/".join(parts[2:4]), parts[4], "/".join(parts[5:]).replace("%2F", "/")
            if repository not in hub.files:
                return self._refuse(404, "RepoNotFound")
            if what == "branch":
                hub.branches[repository, branch] = dict(hub.files[repository])
                return self._json({})
            if what == "preupload":
                files = [
                    {
                        "path": one["path"],
                        "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": one["path"] in hub.ignored,
                        "oid": None,
                    }
                    for one in json.loads(body)["files"]
                ]
                return self._json({"files": files})
            return self._commit(repository, branch, [json.loads(line) for line in body.splitlines()])

        def _commit(self, repository: str, branch: str, lines: list[dict[str, Any]]) -> None:
            header = next(line["value"] for line in lines if line["key"] == "header")
            now = hub.commit_of(repository, branch)
            if header.get("parentCommit", now) != now:
                return self._refuse(412, "")
            files = dict(hub.at(repository, branch) or {})
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.stored[value["oid"]]
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
            if branch == "main":
                hub.put(repository, files)
            else:
                hub.branches[repository, branch] = files
            commit = hub.commit_of(repository, branch)
            return self._json({"commitUrl": f"{hub.address}/{repository}/commit/{commit}", "commitOid": commit})

        def _refused(self, what: str) -> bool:
            for end, (status, code) in hub.refusals.items():
                if what.endswith(end):
                    self._refuse(status, code)
                    return True
            return False

        def _hidden(self, repository: str) -> bool:
            if repository in hub.files and (repository not in hub.private or self.knows_token):
                return False
            if self.knows_token:
                self._refuse(404, "RepoNotFound")
            else:
                self._refuse(401, "")  # what the hub says to people whom it does not know
            return True

        def _json(self, plain: dict[str, Any], status: int = 200) -> None:
            content = json.dumps(plain).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", f"told you: {self.headers.get('Authorization')}")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD = _read
        do_POST = do_PUT = _write

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        use_endpoint(hub.address, hub.cache, monkeypatch)
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def use_endpoint(endpoint: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub's library talk to an address, with a cache folder of its own."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
