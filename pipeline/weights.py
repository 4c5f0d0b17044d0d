"""Where a clip encoder's weights come from: `--encoder-weights ig65m | PATH[#sha256=HEX] | random:SEED`.

Resolving reads a file once for its sha256, which is all that a column's spec needs; tensors are loaded later, and only
from bytes of that very sha256. Nothing here ever falls back to random weights.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
import re
import secrets
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import fsspec
import requests
from fsspec.utils import get_protocol

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

MAX_BYTES = 2 * 1024**3
CONNECT_AND_READ_TIMEOUT_S = (10.0, 60.0)
CHUNK_BYTES = 1 << 20
FRAGMENT = "#sha256="
# torch.save writes a zip archive, or before torch 1.6 a pickle of protocol 2.
CHECKPOINT_STARTS = (b"PK\x03\x04", b"\x80\x02")
# What torch.load(weights_only=True) and the pickle and zip readers below it raise on damaged files.
DAMAGE = (
    pickle.UnpicklingError, EOFError, RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    AssertionError, ImportError, OSError, MemoryError, OverflowError, struct.error,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A file of published weights; `sha256_prefix` is what its publisher wrote into its name, None if nothing."""

    url: str
    sha256_prefix: str | None = None


# Source: VIDEO.md section 1. The number at the end of the second name is a run's, not a hash.
IG65M: Mapping[str, PublishedFile] = {
    "r2plus1d_34": PublishedFile(
        "https://github.com/moabitcoin/ig65m-pytorch/releases/download/v1.0.0/"
        "r2plus1d_34_clip32_ig65m_from_scratch-449a7af9.pth",
        sha256_prefix="449a7af9",
    ),
    "r2plus1d_152": PublishedFile(
        "https://github.com/bjuncek/VMZ/releases/download/test_models/r2plus1d_152_ig65m_from_scratch_f106380637.pth"
    ),
}


@dataclass(frozen=True, slots=True)
class EncoderWeights:
    """Weights that are identified but not loaded.

    Attributes:
        source: as the user named them, without a hash.
        sha256: 64 hex digits over the file; None for random weights.
        seed: of random weights; None for a file.
        location: the file, an absolute path or a URI; None for random weights.
    """

    source: str
    sha256: str | None = None
    seed: int | None = None
    location: str | None = None

    def to_spec(self) -> dict[str, str | int]:
        """What of them decides a column's values: the file's content or the seed, and not where the file lies."""
        if self.sha256 is not None:
            return {"sha256": self.sha256}
        assert self.seed is not None
        return {"random_seed": self.seed}


def resolve_weights(
    text: str, architecture: str, *, cache: Path | None = None, published: Mapping[str, PublishedFile] = IG65M
) -> EncoderWeights:
    """Identify the weights that `--encoder-weights` names; a published file is downloaded on the first use.

    Args:
        text: 'ig65m', 'random:SEED', or a path or fsspec URI of a file of torch.save, each file with an optional
            '#sha256=HEX' that its sha256 must begin with (8 to 64 digits).
        architecture: the network that they are for.
        cache: where downloads are kept; None: where torch.hub keeps its own (TORCH_HOME).

    Raises:
        ValueError: nothing of that kind, a file that cannot be had or is not one of torch.save, or another sha256.
    """
    source, expected = _split_hash(text)
    if source == "random" or source.startswith("random:"):
        return EncoderWeights(source, seed=_seed_of(text))
    if source == "ig65m":
        location = str(_published_file(architecture, cache, published))
    elif not source:
        raise ValueError("encoder weights: ig65m, random:SEED, or a file's path or URI expected, got nothing")
    else:
        location = os.path.abspath(source) if get_protocol(source) == "file" and "://" not in source else source
    with _open_checkpoint(location) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if expected and not sha256.startswith(expected):
        raise ValueError(
            f"encoder weights {source}: sha256 {expected}… expected, the file has {sha256}; get the right file, or "
            "name the hash of the one that you mean"
        )
    return EncoderWeights(source, sha256=sha256, location=location)


def load_state_dict(weights: EncoderWeights, architecture: str) -> dict[str, Tensor]:
    """The tensors, on the CPU; names and shapes are checked where they meet a network (`models.r2plus1d.load_state`).

    Raises:
        ValueError: the file is gone, has changed since it was resolved, is damaged, or holds more than plain tensors.
    """
    # Imported here because torch and torchvision take seconds, which processes that only name weights need not spend.
    import torch

    from models.r2plus1d import random_state

    if weights.seed is not None:
        return random_state(architecture, weights.seed)
    assert weights.location is not None
    with _open_checkpoint(weights.location) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 != weights.sha256:
            raise ValueError(
                f"encoder weights {weights.source}: changed while in use, from sha256 {weights.sha256} to {sha256}; "
                "start again with the file that you mean"
            )
        file.seek(0)
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except DAMAGE as error:
            raise ValueError(
                f"encoder weights {weights.source}: damaged, or more than tensors in it (code is never run): "
                f"{type(error).__name__}: {_first_line(error)}. Get the file again, or write one with "
                "torch.save(network.state_dict(), path)"
            ) from error
    if not isinstance(state, dict) or not all(
        isinstance(v, torch.Tensor) and isinstance(k, str) for k, v in state.items()
    ):
        keys = f" with {', '.join(map(repr, list(state)[:5]))}" if isinstance(state, dict) else ""
        raise ValueError(
            f"encoder weights {weights.source}: tensors by name expected, got a {type(state).__name__}{keys}; write "
            "the network's state dict alone with torch.save(network.state_dict(), path)"
        )
    return state


def _split_hash(text: str) -> tuple[str, str | None]:
    source, marker, digits = text.partition(FRAGMENT)
    if not marker:
        return text, None
    if not re.fullmatch(r"[0-9a-fA-F]{8,64}", digits):
        raise ValueError(f"encoder weights {source}: 8 to 64 hex digits expected after {FRAGMENT}, got {digits!r}")
    return source, digits.lower()


def _seed_of(text: str) -> int:
    digits = text.removeprefix("random").removeprefix(":")
    if not re.fullmatch(r"\d{1,18}", digits):
        raise ValueError(f"encoder weights: random:SEED, SEED a whole number from 0, expected, got {text!r}")
    return int(digits)


def _published_file(architecture: str, cache: Path | None, published: Mapping[str, PublishedFile]) -> Path:
    """The published file in the cache, downloaded if it is not there or not what its name says."""
    if architecture not in published:
        raise ValueError(
            f"encoder weights: no IG-65M file of {architecture} was published, only of {', '.join(published)}; choose "
            "one of these, give a file of your own (for r2plus1d_18 torchvision's Kinetics-400 weights fit), or say "
            "random:SEED"
        )
    entry = published[architecture]
    import torch.hub

    folder = cache or Path(torch.hub.get_dir()) / "checkpoints"
    target = folder / entry.url.rsplit("/", 1)[-1]
    if target.is_file():
        with target.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest().startswith(entry.sha256_prefix or ""):
                return target
        log.warning("%s is not what its name says; downloading it again", target)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{target.name}.{secrets.token_hex(4)}.part"
    try:
        _download(entry, partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _download(entry: PublishedFile, partial: Path) -> None:
    """Write the file of `entry` to `partial`, or raise ValueError and say how to do without the network."""
    log.info("downloading %s", entry.url)
    remedy = "Download it elsewhere and pass its path as --encoder-weights PATH; random weights are never taken instead"
    try:
        with requests.get(entry.url, stream=True, timeout=CONNECT_AND_READ_TIMEOUT_S) as response:
            response.raise_for_status()
            with partial.open("wb") as file:
                _copy(response.iter_content(CHUNK_BYTES), file, entry.url)
                os.fsync(file.fileno())
    except requests.RequestException as error:
        words = f"{type(error).__name__}: {_first_line(error)}"
        raise ValueError(f"{entry.url} cannot be had: {words}. {remedy}") from error
    with _open_checkpoint(str(partial), named=entry.url) as downloaded:
        sha256 = hashlib.file_digest(downloaded, "sha256").hexdigest()
    if not sha256.startswith(entry.sha256_prefix or ""):
        raise ValueError(f"{entry.url}: sha256 {entry.sha256_prefix}… expected, a file of {sha256} came. {remedy}")


def _copy(chunks: Iterable[bytes], file: BinaryIO, named: str) -> None:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > MAX_BYTES:
            raise ValueError(f"encoder weights {named}: more than {MAX_BYTES} bytes; that is no file of weights")
        file.write(chunk)
    file.flush()


@contextlib.contextmanager
def _open_checkpoint(location: str, named: str | None = None) -> Iterator[BufferedReader]:
    """The file at its beginning, a local copy of it if remote; refuses what torch.save cannot have written."""
    named = named or location
    with contextlib.ExitStack() as stack:
        try:
            opened = file = stack.enter_context(fsspec.open(location, "rb"))
            if get_protocol(location) != "file":
                file = stack.enter_context(tempfile.TemporaryFile())
                _copy(iter(lambda: opened.read(CHUNK_BYTES), b""), file, named)
            file.seek(0)
            start = file.read(64)
            file.seek(0)
        except (OSError, ImportError, ValueError) as error:
            raise ValueError(
                f"encoder weights {named}: cannot be read: {type(error).__name__}: {_first_line(error)}; give ig65m, "
                "random:SEED, or the path or URI of a file that this machine can read"
            ) from error
        if not start.startswith(CHECKPOINT_STARTS):
            raise ValueError(
                f"encoder weights {named}: a file of torch.save expected, got one that begins with {start[:24]!r}; "
                f"{_guess(start)}"
            )
        yield cast(BufferedReader, file)


def _guess(start: bytes) -> str:
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "this is a web page: use the link of the file itself"
    if text.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer: run `git lfs pull` where it came from"
    return "give the file that holds the weights"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]
