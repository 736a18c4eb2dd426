"""A folder into a repository: made or updated in one commit, never over what is another's, and every refusal told."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi

from clipfit_cli.adapters import upload as module
from clipfit_cli.adapters.push import Shared, push, write_pushed
from clipfit_cli.adapters.upload import Target
from clipfit_cli.errors import ClipfitError, ConfigError, ResultsError
from tests.adapters.shared_runs import PUSHED, hub, run, runs, use_no_token
from tests.models.hub_server import TOKEN, Hub, use_endpoint
from tests.results.finished_runs import add_run

__all__ = ["hub", "run", "runs"]

ADAPTER = Shared(licence="mit")
NAME = "org/name"


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_repository_is_made_and_holds_the_folder(hub: Hub, run: Path, tmp_path: Path) -> None:
    said: list[str] = []
    assert push(run, Target(NAME), ADAPTER, say=said.append) == f"{hub.address}/{NAME}"
    held = hub.files[NAME]
    assert held.pop(".gitattributes")
    assert held == files_of(write_pushed(run, tmp_path / "out", NAME, ADAPTER)) and held.keys() == PUSHED
    assert NAME not in hub.private and said == [f"uploading to {hub.address}/{NAME} ..."]
    assert sum("/commit/" in one for one in hub.asked) == 1
    assert TOKEN.encode() not in b"".join(hub.bodies.values())


@pytest.mark.slow
def test_private_is_private(hub: Hub, run: Path) -> None:
    push(run, Target(NAME, private=True), ADAPTER)
    assert NAME in hub.private
    hub.put("org/public", {".gitattributes": b""})
    with pytest.raises(ConfigError, match="is there and public: make it private"):
        push(run, Target("org/public", private=True), ADAPTER)
    assert hub.files["org/public"].keys() == {".gitattributes"}


@pytest.mark.slow
def test_the_same_run_again_is_a_commit_more(hub: Hub, run: Path) -> None:
    push(run, Target(NAME), ADAPTER)
    push(run, Target(NAME), Shared(licence="apache-2.0"))
    assert b"license: apache-2.0" in hub.files[NAME]["README.md"] and len(hub.older) == 2


@pytest.mark.slow
def test_a_name_that_is_taken(hub: Hub, run: Path, tmp_path: Path) -> None:
    push(run, Target(NAME), ADAPTER)
    other = add_run(tmp_path / "runs", seed=7)[0]
    before = dict(hub.files[NAME])
    with pytest.raises(ConfigError, match=r"is taken: it holds run \w{12} \(adapter\)\. Name another .* with --force"):
        push(other, Target(NAME), ADAPTER)
    hub.put("org/else", {"model.bin": b"x", "README.md": b"mine"})
    with pytest.raises(ConfigError, match=r"is taken: it holds README\.md, model\.bin"):
        push(run, Target("org/else"), ADAPTER)
    hub.put("org/odd", {"run.json": b'{"kind": "adapter"}'})
    with pytest.raises(ConfigError, match=r"is taken: it holds run\.json"):
        push(run, Target("org/odd"), ADAPTER)
    assert hub.files[NAME] == before and hub.files["org/else"].keys() == {"model.bin", "README.md"}
    push(run, Target("org/else", force=True), ADAPTER)
    assert hub.files["org/else"].keys() == {"model.bin", *PUSHED}


@pytest.mark.slow
def test_force_takes_away_what_an_earlier_push_wrote_and_nothing_else(hub: Hub, run: Path) -> None:
    summary = {"kind": "model", "run_key": "0" * 64, "files": {"open_clip_model.safetensors": "", "gone.json": ""}}
    hub.put(NAME, {"run.json": json.dumps(summary).encode(), "open_clip_model.safetensors": b"x", "notes.txt": b"y"})
    push(run, Target(NAME, force=True), ADAPTER)
    assert hub.files[NAME].keys() == {"notes.txt", *PUSHED}


@pytest.mark.slow
def test_a_branch_of_its_own(hub: Hub, run: Path, tmp_path: Path) -> None:
    push(run, Target("org/new", "main"), ADAPTER)
    assert hub.files["org/new"].keys() >= PUSHED
    push(run, Target(NAME, "seed/1"), ADAPTER)
    assert hub.files[NAME].keys() == {".gitattributes"} and hub.branches[NAME, "seed/1"].keys() >= PUSHED
    push(run, Target(NAME), ADAPTER)
    other = add_run(tmp_path / "runs", seed=7)[0]
    push(other, Target(NAME, "seed/7"), ADAPTER)  # what main holds stays there
    assert hub.branches[NAME, "seed/7"]["run.json"] != hub.files[NAME]["run.json"]
    with pytest.raises(ConfigError, match="is taken"):
        push(other, Target(NAME, "seed/1"), ADAPTER)


def test_somebody_who_writes_meanwhile_is_not_overwritten(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put(NAME, {".gitattributes": b""})
    check = module.Uploader.check_free

    def meanwhile(self: module.Uploader, kind: Any, run_key: str) -> None:
        check(self, kind, run_key)
        hub.put(NAME, {"theirs.txt": b""})

    monkeypatch.setattr(module.Uploader, "check_free", meanwhile)
    with pytest.raises(ResultsError, match="somebody has written to it meanwhile"):
        push(run, Target(NAME), ADAPTER)
    assert hub.files[NAME] == {"theirs.txt": b""}


def refused(hub: Hub, run: Path, message: str, kind: type[ClipfitError] = ResultsError) -> None:
    with pytest.raises(kind, match=message) as caught:
        push(run, Target(NAME), ADAPTER)
    told = str(caught.value)
    assert TOKEN not in told and "secretSignature" not in told and len(told) < 500
    assert hub.files.get(NAME, {}).keys() <= {".gitattributes"}


def test_without_a_token(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_no_token(monkeypatch)
    refused(hub, run, "there is no token for http.*run `hf auth login`, or set HF_TOKEN", ConfigError)
    assert hub.asked == []


def test_with_a_token_that_the_hub_does_not_know(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN + "Not")
    refused(hub, run, "the hub does not know the token")


@pytest.mark.slow
@pytest.mark.parametrize("odd", ["é", "a b", "a\x01b"])
def test_with_what_no_token_is(odd: str, hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN + odd)
    refused(hub, run, "holds characters that no token has", ConfigError)


def test_with_a_token_that_reads(hub: Hub, run: Path) -> None:
    hub.role = "read"
    refused(hub, run, "the token of tester can read and not write")
    assert not any(one.startswith("POST") for one in hub.asked)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "answer", "message"),
    [
        ("/api/repos/create", (403, ""), "the token may not write there; check the name of the user or organization"),
        ("/api/repos/create", (409, ""), "the name is taken by what the token may not see"),
        ("/api/repos/create", (402, ""), r"the hub answers 402"),
        ("/commit/main", (403, ""), "the token may not write there"),
        ("/commit/main", (500, ""), "the hub answers 500"),
        ("/store/", (403, ""), r"the hub answers 403 \("),
        ("/store/", (400, ""), r"the hub answers 400 \("),
        ("/api/validate-yaml", (404, ""), r"what answers is no hub \("),
        ("/api/whoami-v2", (302, ""), r"what answers is no hub \("),
        ("/api/whoami-v2", (429, ""), "asked too often"),
    ],
)
def test_refusals(path: str, answer: tuple[int, str], message: str, hub: Hub, run: Path) -> None:
    hub.refusals[path] = answer
    refused(hub, run, message)


@pytest.mark.slow
def test_a_page_that_the_hub_does_not_take(hub: Hub, run: Path) -> None:
    hub.complaint = '"license" must be one of [mit]'
    refused(hub, run, r'refuses the page of .*"license" must be one of \[mit\]', ConfigError)


@pytest.mark.slow
def test_files_that_a_repository_leaves_out(hub: Hub, run: Path) -> None:
    hub.ignored = {"run.json"}
    with pytest.raises(ResultsError, match=r"did not take run\.json: a \.gitignore"):
        push(run, Target(NAME), ADAPTER)


@pytest.mark.slow
def test_a_repository_that_was_renamed(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = SimpleNamespace(id="org/other", private=False, sha="", siblings=[])
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: moved)
    refused(hub, run, "is called org/other now", ConfigError)


@pytest.mark.slow
def test_a_hub_that_never_answers(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use_endpoint(f"http://127.0.0.1:{silent.getsockname()[1]}", hub.cache, monkeypatch)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        refused(hub, run, r"it cannot be reached \(.*timed out")


@pytest.mark.slow
def test_where_no_hub_is(hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]  # nobody listens at it
        use_endpoint(f"http://127.0.0.1:{port}", tmp_path / "cache", monkeypatch)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        refused(hub, run, "it cannot be reached .*refused")
