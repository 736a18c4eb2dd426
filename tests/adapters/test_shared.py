"""Adapters of the hub: the newest, of one commit, checked; the kept one where nothing answers; every refusal told."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from clipfit_cli.adapters import shared as module
from clipfit_cli.adapters.shared import fetch_adapter, parse_shared
from clipfit_cli.errors import CheckpointError, ClipfitError, ConfigError, ModelError
from clipfit_cli.models.hub import plain_reason
from tests.adapters.shared_runs import hub, run, runs, use_no_token
from tests.models.hub_server import TOKEN, Hub, use_endpoint

__all__ = ["hub", "run", "runs"]

NAME = "org/name"


@pytest.fixture
def files(run: Path) -> dict[str, bytes]:
    """Those of an adapter, which the hub does not have yet."""
    return {name: (run / name).read_bytes() for name in ("adapter_config.json", "adapter_model.safetensors")}


def other(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return another adapter."""
    card = json.loads(files["adapter_config.json"])
    weights = files["adapter_model.safetensors"][:-1] + b"\1"
    card["adapter_sha256"] = hashlib.sha256(weights).hexdigest()
    return {"adapter_config.json": json.dumps(card).encode(), "adapter_model.safetensors": weights}


def held(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("text", "found"),
    [("hf:org/name", (NAME, None)), ("hf-hub:org/name", (NAME, None)), ("hf:org/na.me@v1/x", ("org/na.me", "v1/x"))],
)
def test_what_a_name_means(text: str, found: tuple[str, str | None]) -> None:
    assert parse_shared(text) == found


@pytest.mark.parametrize(
    "text", ["hf:", "hf:name", "hf:a/b/c", "hf:a/b@", "hf:a/b@../c", "hf:a/b@-x", "hf:" + "a/b" * 999]
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(ConfigError, match="is no repository of the hub|is no branch"):
        fetch_adapter(text)


def test_the_newest_is_fetched_once(hub: Hub, files: dict[str, bytes]) -> None:
    hub.put(NAME, {**files, "model.bin": b"not asked for"})
    said: list[str] = []
    for _ in range(2):
        folder = fetch_adapter("hf:org/name", say=said.append)
        assert held(folder) == files
    assert said == [f"fetching the adapter hf:{NAME} from {hub.address}/{NAME} ..."]
    assert sum(one.startswith(f"GET /{NAME}") for one in hub.asked) == 2
    hub.put(NAME, other(files))
    assert held(fetch_adapter("hf:org/name")) == other(files)


@pytest.mark.parametrize("kind", ["branch", "commit"])
def test_a_revision(kind: str, hub: Hub, files: dict[str, bytes]) -> None:
    first = hub.put(NAME, other(files))
    hub.put(NAME, {"README.md": b""})
    hub.branches[NAME, "seed/1"] = other(files)
    text = f"hf:org/name@{first if kind == 'commit' else 'seed/1'}"
    assert held(fetch_adapter(text)) == other(files)
    asked = len(hub.asked)
    assert held(fetch_adapter(text)) == other(files)
    assert (len(hub.asked) == asked) == (kind == "commit"), "a commit never changes, so nobody has to be asked"


def test_both_files_are_of_one_commit(hub: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody pushes between the two."""
    from huggingface_hub import hf_hub_download

    hub.put(NAME, files)

    def download(repository: str, name: str, *, revision: str) -> str:
        path = hf_hub_download(repository, name, revision=revision)
        if len(hub.older) == 0:
            hub.put(NAME, other(files))
        return path

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert held(fetch_adapter("hf:org/name")) == other(files)


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["argument", "library"])
def test_offline_takes_what_is_kept_and_asks_nobody(
    closed: str, hub: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.put(NAME, files)
    folder = fetch_adapter("hf:org/name")
    asked = len(hub.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", closed == "library")
    assert fetch_adapter("hf:org/name", offline=closed == "argument") == folder
    with pytest.raises(ModelError, match=r"the adapter hf:org/else: not in the local cache .*hf download org/else"):
        fetch_adapter("hf:org/else", offline=closed == "argument")
    assert len(hub.asked) == asked


@pytest.mark.slow
def test_where_no_hub_answers(hub: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put(NAME, files)
    folder = fetch_adapter("hf:org/name")
    use_endpoint("http://127.0.0.1:9", hub.cache, monkeypatch)
    said: list[str] = []
    assert fetch_adapter("hf:org/name", say=said.append) == folder
    assert "does not answer" in said[0] and "taking what was fetched before" in said[0]
    with pytest.raises(ModelError, match=r"hf:org/else: not in the local cache, and could not be fetched"):
        fetch_adapter("hf:org/else")


@pytest.mark.slow
def test_a_hub_that_has_no_time_and_one_that_has_nothing_any_more(hub: Hub, files: dict[str, bytes]) -> None:
    hub.put(NAME, files)
    folder = fetch_adapter("hf:org/name")
    hub.refusals[NAME] = (429, "")
    assert fetch_adapter("hf:org/name") == folder
    hub.refusals[NAME] = (404, "RepoNotFound")
    with pytest.raises(ModelError, match="no repository org/name"):
        fetch_adapter("hf:org/name")


def refused(hub: Hub, message: str, kind: type[ClipfitError] = ModelError, text: str = "hf:org/name") -> None:
    with pytest.raises(kind, match=message) as caught:
        fetch_adapter(text)
    assert TOKEN not in str(caught.value)


@pytest.mark.slow
def test_private_and_restricted_ones(hub: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put(NAME, files)
    hub.private = {NAME}
    assert held(fetch_adapter("hf:org/name")) == files
    hub.put("org/gated", files)
    hub.refusals["org/gated"] = (403, "GatedRepo")
    refused(hub, "access to org/gated is restricted: accept its licence", text="hf:org/gated")
    use_no_token(monkeypatch)
    refused(hub, "no repository org/name at http.*or it is private: .*hf auth login")


@pytest.mark.slow
def test_what_is_no_adapter(hub: Hub, files: dict[str, bytes]) -> None:
    hub.put(NAME, {"open_clip_config.json": b"{}"})
    refused(hub, "holds no adapter of clipfit; expected adapter_config.json and .*--pretrained")
    refused(hub, "has no branch, tag or commit v9", text="hf:org/name@v9")
    hub.put(NAME, {**files, "adapter_config.json": b'{"peft_type": "LORA"}'})
    refused(hub, "is an adapter of PEFT", CheckpointError)
    hub.put(NAME, {**files, "adapter_config.json": b"[" * 100_000})
    refused(hub, "is not an adapter card", CheckpointError)


def test_other_tensors_than_the_card_names(hub: Hub, files: dict[str, bytes]) -> None:
    hub.put(NAME, {**files, "adapter_model.safetensors": other(files)["adapter_model.safetensors"]})
    refused(hub, "is refused: adapter_model.safetensors is not the file that its card names", CheckpointError)
    plain = json.loads(files["adapter_config.json"])
    hub.put(NAME, {**files, "adapter_config.json": json.dumps({**plain, "adapter_sha256": None}).encode()})
    refused(hub, "is not the file that its card names", CheckpointError)


def test_what_is_larger_than_any_adapter_is_not_fetched(
    hub: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.put(NAME, files)
    monkeypatch.setattr(module, "_MOST_WEIGHTS", len(files["adapter_model.safetensors"]) - 1)
    refused(hub, r"adapter_model\.safetensors of http.* is refused: it has 84 bytes, at most 83", CheckpointError)
    assert not any(one.startswith(f"GET /{NAME}") for one in hub.asked)


def test_a_hub_that_tells_no_commit(hub: Hub, files: dict[str, bytes], tmp_path: Path) -> None:
    hub.files[NAME], hub.commits[NAME] = files, "../../../outside"
    refused(hub, "does not say of which commit", CheckpointError)
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"Illegal header value b'Bearer {TOKEN}\\x01'", "Illegal header value b'Bearer ...'"),
        ("403 for url 'https://s3/x?Signature=abc&z=1'", "403 for url 'https://s3/x?...'"),
        (f"{TOKEN} is odd", "... is odd"),
    ],
)
def test_no_secret_is_told(text: str, told: str, hub: Hub) -> None:
    assert plain_reason(ValueError(text)) == told
