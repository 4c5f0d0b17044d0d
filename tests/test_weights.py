"""Encoder weights: the real download code against a loopback server, files of every wrong kind, seeds."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import io
import os
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
import torch
from torch import Tensor

from models.r2plus1d import build_network, load_state, random_state
from pipeline.weights import IG65M, EncoderWeights, PublishedFile, load_state_dict, resolve_weights


def saved(state: object, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def small_state() -> dict[str, Tensor]:
    return {"stem.0.weight": torch.arange(6.0).reshape(2, 3), "stem.1.bias": torch.ones(2)}


@pytest.fixture(scope="session")
def published_state(shared_data: Path) -> dict[str, Tensor]:
    """Tensors of the published names and shapes; each is one number seen at every place, so that its file is small."""
    lines = (shared_data / "ig65m_r2plus1d_34_state_dict.txt").read_text().splitlines()
    state = {}
    for index, line in enumerate(lines):
        name, shape = line.split(" ", 1)
        dtype = torch.int64 if name.endswith("num_batches_tracked") else torch.float32
        state[name] = torch.tensor(index + 1, dtype=dtype).expand(ast.literal_eval(shape))
    return state


class Server(ThreadingHTTPServer):
    """Serves `bodies` by path; a path of `cut` stops halfway through its body."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.requests: list[str] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        body = self.server.bodies.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path in self.server.cut else body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


@pytest.mark.parametrize("legacy", [True, False], ids=["as in 2019", "zip"])
def test_ig65m_is_downloaded_once_checked_and_fits(
    server: Server, tmp_path: Path, published_state: dict[str, Tensor], legacy: bool
) -> None:
    body = saved(published_state, legacy)
    sha256 = hashlib.sha256(body).hexdigest()
    server.bodies["/v1/net.pth"] = body
    published = {"r2plus1d_34": PublishedFile(server.url("/v1/net.pth"), sha256[:8])}
    weights = resolve_weights("ig65m", "r2plus1d_34", cache=tmp_path / "cache", published=published)
    assert (weights.source, weights.sha256, weights.seed) == ("ig65m", sha256, None)
    assert weights.to_spec() == {"sha256": sha256}
    assert resolve_weights("ig65m", "r2plus1d_34", cache=tmp_path / "cache", published=published) == weights
    assert server.requests == ["/v1/net.pth"]
    assert os.listdir(tmp_path / "cache") == ["net.pth"]
    state = load_state_dict(weights, "r2plus1d_34")
    assert list(state) == list(published_state)
    network = build_network("r2plus1d_34")
    load_state(network, state)
    assert torch.equal(network.get_parameter("layer4.2.conv2.0.3.weight"), state["layer4.2.conv2.0.3.weight"])


def test_the_real_urls_carry_the_real_hashes() -> None:
    assert set(IG65M) == {"r2plus1d_34", "r2plus1d_152"}
    for entry in IG65M.values():
        assert entry.url.startswith("https://github.com/") and entry.url.endswith(".pth")
        if entry.sha256_prefix:
            assert entry.url.endswith(f"-{entry.sha256_prefix}.pth")


def test_a_download_of_another_hash_is_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    server.bodies["/net.pth"] = saved(small_state())
    published = {"r2plus1d_34": PublishedFile(server.url("/net.pth"), "449a7af9")}
    with pytest.raises(ValueError, match=r"449a7af9.*--encoder-weights PATH"):
        resolve_weights("ig65m", "r2plus1d_34", cache=tmp_path, published=published)
    assert os.listdir(tmp_path) == []


def test_a_spoilt_cached_file_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    body = saved(small_state())
    server.bodies["/net.pth"] = body
    (tmp_path / "net.pth").write_bytes(body[:-100])
    published = {"r2plus1d_34": PublishedFile(server.url("/net.pth"), hashlib.sha256(body).hexdigest()[:8])}
    resolve_weights("ig65m", "r2plus1d_34", cache=tmp_path, published=published)
    assert (tmp_path / "net.pth").read_bytes() == body


@pytest.mark.parametrize("fault", ["404", "cut", "html", "refused"])
def test_a_failed_download_names_url_and_alternative(server: Server, tmp_path: Path, fault: str) -> None:
    url = server.url("/net.pth")
    if fault == "cut":
        server.bodies["/net.pth"] = saved(small_state()) * 100
        server.cut.add("/net.pth")
    elif fault == "html":
        server.bodies["/net.pth"] = b"<!DOCTYPE html><html>Sign in</html>"
    elif fault == "refused":
        server.server_close()
    with pytest.raises(ValueError) as caught:
        resolve_weights("ig65m", "r2plus1d_152", cache=tmp_path, published={"r2plus1d_152": PublishedFile(url)})
    assert url in str(caught.value)
    assert ("web page" if fault == "html" else "--encoder-weights PATH") in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_an_architecture_without_a_published_file_is_refused() -> None:
    with pytest.raises(ValueError, match=r"r2plus1d_34, r2plus1d_152.*random:SEED"):
        resolve_weights("ig65m", "r2plus1d_18")


def test_a_file_is_identified_by_its_content_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = saved(small_state())
    here, there = tmp_path / "a.pth", tmp_path / "b.pth"
    here.write_bytes(body)
    there.write_bytes(body)
    monkeypatch.chdir(tmp_path)
    weights = resolve_weights("a.pth", "r2plus1d_18")
    assert weights.sha256 == hashlib.sha256(body).hexdigest()
    assert weights.to_spec() == resolve_weights(str(there), "r2plus1d_18").to_spec()
    monkeypatch.chdir("/")
    loaded = load_state_dict(pickle.loads(pickle.dumps(weights)), "r2plus1d_18")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in small_state().items())


def test_a_remote_uri_is_read_through_fsspec() -> None:
    body = saved(small_state())
    with fsspec.open("memory://weights/net.pth", "wb") as file:
        file.write(body)
    weights = resolve_weights("memory://weights/net.pth", "r2plus1d_18")
    assert weights.sha256 == hashlib.sha256(body).hexdigest()
    assert list(load_state_dict(weights, "r2plus1d_18")) == list(small_state())


def test_an_expected_hash_is_held_against_the_file(tmp_path: Path) -> None:
    path = tmp_path / "net#1.pth"
    path.write_bytes(saved(small_state()))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert resolve_weights(f"{path}#sha256={sha256[:12].upper()}", "r2plus1d_18").sha256 == sha256
    assert resolve_weights(f"{path}#sha256={sha256}", "r2plus1d_18").source == str(path)
    wrong = "0" * 8 if not sha256.startswith("0" * 8) else "1" * 8
    with pytest.raises(ValueError, match=rf"{wrong}.*{sha256}"):
        resolve_weights(f"{path}#sha256={wrong}", "r2plus1d_18")
    with pytest.raises(ValueError, match="8 to 64 hex digits"):
        resolve_weights(f"{path}#sha256=xyz", "r2plus1d_18")


def test_a_file_that_changed_after_it_was_resolved_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(saved(small_state()))
    weights = resolve_weights(str(path), "r2plus1d_18")
    path.write_bytes(saved({"stem.0.weight": torch.zeros(1)}))
    with pytest.raises(ValueError, match="changed while in use"):
        load_state_dict(weights, "r2plus1d_18")


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("never",)


@pytest.mark.parametrize("legacy", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.pth").write_bytes(saved({"stem.0.weight": Malicious()}, legacy))
    with pytest.raises(ValueError, match="code is never run"):
        load_state_dict(resolve_weights("net.pth", "r2plus1d_18"), "r2plus1d_18")
    assert os.listdir(tmp_path) == ["net.pth"]


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, legacy: bool, kept: float) -> None:
    body = saved(small_state() | {"layer1.0.conv1.0.0.weight": torch.rand(100, 100)}, legacy)
    (tmp_path / "net.pth").write_bytes(body[: int(len(body) * kept)])
    with pytest.raises(ValueError, match="damaged"):
        load_state_dict(resolve_weights(str(tmp_path / "net.pth"), "r2plus1d_18"), "r2plus1d_18")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"just some text", "torch.save"),
        (b"", "torch.save"),
    ],
)
def test_files_of_another_kind_are_refused_at_once(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        resolve_weights(str(tmp_path / "net.pth"), "r2plus1d_34")


@pytest.mark.parametrize(
    "content", [{"model": small_state(), "epoch": 3}, [torch.zeros(1)], torch.zeros(1), {0: torch.zeros(1)}]
)
def test_files_of_something_else_than_tensors_by_name_are_refused(tmp_path: Path, content: object) -> None:
    (tmp_path / "net.pth").write_bytes(saved(content))
    with pytest.raises(ValueError, match="tensors by name expected"):
        load_state_dict(resolve_weights(str(tmp_path / "net.pth"), "r2plus1d_18"), "r2plus1d_18")


@pytest.mark.parametrize("text", ["missing.pth", "/nowhere/net.pth", "nosuchprotocol://host/net.pth", "", "."])
def test_what_cannot_be_read_is_refused_and_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="random:SEED"):
        resolve_weights(text, "r2plus1d_34")


def test_random_weights_are_named_by_their_seed() -> None:
    weights = resolve_weights("random:7", "r2plus1d_18")
    assert weights == EncoderWeights("random:7", sha256=None, seed=7, location=None)
    assert weights.to_spec() == {"random_seed": 7}
    state, expected = load_state_dict(weights, "r2plus1d_18"), random_state("r2plus1d_18", 7)
    assert all(torch.equal(state[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "text", ["random", "random:", "random:-1", "random:x", "random:1.5", "random:0#sha256=00000000"]
)
def test_random_without_a_whole_seed_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="random:SEED"):
        resolve_weights(text, "r2plus1d_18")


def test_weights_are_plain_frozen_data() -> None:
    weights = EncoderWeights("random:0", seed=0)
    assert hash(weights) == hash(pickle.loads(pickle.dumps(weights)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        weights.seed = 1  # type: ignore[misc]
