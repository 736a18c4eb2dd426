"""Files of the hub: cached, fetched, refused."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from clipfit_cli.errors import ModelError
from clipfit_cli.models import hub
from clipfit_cli.models.hub import fetch, network_closed
from tests.models.hub_server import Hub, serve, use_endpoint

NAMES = ("best.safetensors", "good.bin")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    served = Hub(tmp_path / "cache")
    with serve(served, monkeypatch):
        yield served


def test_the_best_file_is_fetched_once(server: Hub) -> None:
    server.files["org/model"] = {"best.safetensors": b"best", "good.bin": b"good"}
    said: list[str] = []
    for _ in range(2):
        path = fetch("org/model", NAMES, what="the weights", say=said.append)
        assert path.read_bytes() == b"best" and server.cache in path.parents
    assert said == [f"fetching the weights from {constants.ENDPOINT}/org/model ..."]
    asked = len(server.asked)
    assert fetch("org/model", NAMES, what="the weights", offline=True) == path
    assert len(server.asked) == asked


def test_the_next_name_where_the_best_is_not_there(server: Hub) -> None:
    server.files["org/model"] = {"good.bin": b"good"}
    assert fetch("org/model", NAMES, what="the weights").read_bytes() == b"good"


def test_a_cached_file_goes_before_a_better_one_that_is_not(server: Hub) -> None:
    server.files["org/model"] = {"good.bin": b"good"}
    fetch("org/model", NAMES, what="the weights")
    server.files["org/model"]["best.safetensors"] = b"best"
    assert fetch("org/model", NAMES, what="the weights").read_bytes() == b"good"


@pytest.mark.parametrize("closed", ["argument", "library"])
def test_offline_asks_nobody(closed: str, server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["org/model"] = {"good.bin": b"good"}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", closed == "library")
    with pytest.raises(ModelError) as caught:
        fetch("org/model", NAMES, what="the weights", instead="do without", offline=closed == "argument")
    message = str(caught.value)
    assert f"the weights: not in the local cache ({server.cache})" in message
    assert "hf download org/model" in message and "or do without" in message and "--offline" in message
    assert server.asked == []


def test_restricted_access(server: Hub) -> None:
    server.files["org/model"] = {"good.bin": b"good"}
    server.refusals["org/model"] = (403, "GatedRepo")
    with pytest.raises(
        ModelError, match=r"access to org/model is restricted: accept its licence at http.*hf auth login"
    ):
        fetch("org/model", NAMES, what="the weights")
    server.refusals["org/model"] = (401, "GatedRepo")
    with pytest.raises(ModelError, match="accept its licence"):
        fetch("org/model", NAMES, what="the weights")
    server.refusals["org/model"] = (403, "")  # by whatever stands in between
    with pytest.raises(ModelError, match=r"could not be fetched .*403 Forbidden"):
        fetch("org/model", NAMES, what="the weights")


@pytest.mark.parametrize("answer", [(401, ""), (404, "RepoNotFound")])
def test_no_such_repository(answer: tuple[int, str], server: Hub) -> None:
    server.refusals["org/none"] = answer
    with pytest.raises(ModelError, match=r"no repository org/none at http.*or it is private"):
        fetch("org/none", NAMES, what="the weights")


def test_no_such_file(server: Hub) -> None:
    server.files["org/model"] = {"other.bin": b""}
    with pytest.raises(ModelError, match=r"/org/model has no best\.safetensors and no good\.bin; .*, or do without"):
        fetch("org/model", NAMES, what="the weights", instead="do without")


@pytest.mark.parametrize("name", ["org/model/more", "org//model", "-x", ""])
def test_what_is_no_name_of_a_repository(name: str) -> None:
    with pytest.raises(ModelError, match="is no repository of the hub; expected hf:ORG/NAME"):
        fetch(name, NAMES, what="the weights")


def test_connection_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]  # nobody listens at it
        use_endpoint(f"http://127.0.0.1:{port}", tmp_path, monkeypatch)
        with pytest.raises(ModelError, match=r"could not be fetched from http://127.* \(.*refused\)"):
            fetch("org/model", NAMES, what="the weights")


def test_an_unknown_host_fails_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(address: tuple[str, int], timeout: float) -> None:
        raise OSError(f"no such host {address[0]}")

    def never(*arguments: object) -> str:
        raise AssertionError("was asked")

    use_endpoint("https://hub.invalid", tmp_path, monkeypatch)
    monkeypatch.setattr("socket.create_connection", unknown)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", never)
    monkeypatch.setattr(hub, "getproxies", dict)
    with pytest.raises(ModelError, match=r"no such host hub\.invalid"):
        fetch("org/model", NAMES, what="the weights")
    for proxies in ({"https": "http://proxy:3128"}, {"all": "proxy"}):
        monkeypatch.setattr(hub, "getproxies", lambda proxies=proxies: proxies)
        with pytest.raises(ModelError, match="no such host proxy"):
            fetch("org/model", NAMES, what="the weights")
    asked: list[tuple[str, int]] = []

    def answers(address: tuple[str, int], timeout: float) -> socket.socket:
        asked.append(address)
        return socket.socket()

    monkeypatch.setattr("socket.create_connection", answers)
    with pytest.raises(ModelError, match="was asked"):
        fetch("org/model", NAMES, what="the weights")
    assert asked == [("proxy", 80)], "what the host's name is, a proxy knows"


@pytest.mark.parametrize("before", [None, "0"])
def test_closing_the_network_is_undone(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    if before is None:
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    else:
        monkeypatch.setenv("HF_HUB_OFFLINE", before)
    with network_closed():
        assert constants.HF_HUB_OFFLINE and os.environ["HF_HUB_OFFLINE"] == "1"
    assert not constants.HF_HUB_OFFLINE and os.environ.get("HF_HUB_OFFLINE") == before
