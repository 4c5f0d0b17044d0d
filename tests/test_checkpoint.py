"""Checkpoints: what goes in comes out, and what is damaged, foreign or hostile is named and does nothing."""

from __future__ import annotations

import dataclasses
import io
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import NAMES, random_clips, small_model, stir_batch_norms

from models.checkpoint import FORMAT, KIND, Checkpoint, CheckpointError
from models.recogniser import Recogniser
from models.registry import config_dict

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def checkpoint_of(model: Recogniser, **changes: Any) -> Checkpoint:
    """A checkpoint with something in every field."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    sum(parameter.square().sum() for parameter in model.parameters()).backward()
    optimizer.step()
    made = Checkpoint(
        model=config_dict(model),
        weights=model.state_dict(),
        step=17,
        classes=(("/m/09x0r", "Speech"), ("/m/0k4j", "Car, “engine”")),
        columns={"logmel": "logmel-9a551511"},
        normalizers={"logmel": {"mean": torch.linspace(-60, -40, 64), "std": torch.full((64,), 12.5)}},
        options={"seed": 3, "mixup": 0.0, "set": ["dropout=0.0"], "normalizer": None, "strict": False},
        metrics={"mAP": 0.25, "AUC": None, "clips": 20},
        versions={"torch": "2.11.0"},
        trainer={"optimizer": optimizer.state_dict(), "position": {"epoch": 1}, "best": None},
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return checkpoint_of(small_model("video", width=1 / 32))


@pytest.fixture(scope="module")
def data(checkpoint: Checkpoint) -> bytes:
    return checkpoint.to_bytes()


def same(left: Any, right: Any) -> bool:
    """Equal values of equal types, tensors to the bit."""
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return isinstance(right, dict) and left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return type(left) is type(right) and len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and left == right


def as_dict(checkpoint: Checkpoint) -> dict[str, Any]:
    return {field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)}


def test_every_field_survives_to_the_bit(checkpoint: Checkpoint, data: bytes) -> None:
    found = as_dict(Checkpoint.from_bytes(data, "last.pt"))
    for name, value in as_dict(checkpoint).items():
        assert same(found[name], value), name


def test_the_file_is_plain_data_for_torch_load(data: bytes) -> None:
    raw = torch.load(io.BytesIO(data), weights_only=True)
    assert (raw["kind"], raw["format"], raw["classes"][0]) == (KIND, FORMAT, ["/m/09x0r", "Speech"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_a_model_built_from_bytes_gives_the_same_scores(name: str, dtype: torch.dtype) -> None:
    model = small_model(name, width=1 / 32).to(dtype)
    with torch.no_grad():  # numbers that no float32 holds
        for parameter in model.parameters():
            parameter.mul_(1 + 1e-9)
    stir_batch_norms(model)
    plain = checkpoint_of(small_model("video", width=1 / 32))
    made = dataclasses.replace(plain, model=config_dict(model), weights=model.state_dict())
    built = Checkpoint.from_bytes(made.to_bytes(), "best.pt").build()
    assert not any(module.training for module in built.modules())
    assert {value.dtype for value in built.state_dict().values()} <= {dtype, torch.int64}
    clips = random_clips(2, dtype=dtype)
    with torch.inference_mode():
        assert torch.equal(built(clips), model.eval()(clips))


def test_training_a_built_model_leaves_the_checkpoint_alone(checkpoint: Checkpoint, data: bytes) -> None:
    read = Checkpoint.from_bytes(data, "best.pt")
    model = read.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert same(dict(read.weights), dict(checkpoint.weights))


def test_the_digest_follows_from_what_decides_scores(checkpoint: Checkpoint, data: bytes) -> None:
    digest = checkpoint.digest
    assert len(digest) == 64
    assert Checkpoint.from_bytes(data, "best.pt").digest == digest
    weights = dict(reversed(checkpoint.weights.items()))
    assert dataclasses.replace(checkpoint, weights=weights, step=3, metrics={}, trainer={}, options={}).digest == digest
    name = next(iter(weights))
    flipped = {**weights, name: torch.nextafter(weights[name], torch.tensor(9.0))}
    changes: list[dict[str, Any]] = [
        {"model": {**checkpoint.model, "dropout": 0.5}},
        {"classes": checkpoint.classes[::-1]},
        {"columns": {"logmel": "logmel-00000000"}},
        {"normalizers": {"logmel": {**checkpoint.normalizers["logmel"], "std": torch.full((64,), 12.0)}}},
        {"normalizers": {}},
        {"weights": flipped},
        {"weights": {key: value.double() for key, value in weights.items()}},
        {"weights": {f"{key}s": value for key, value in weights.items()}},
    ]
    assert len({digest, *(dataclasses.replace(checkpoint, **change).digest for change in changes)}) == len(changes) + 1


def saved(value: Any) -> bytes:
    sink = io.BytesIO()
    torch.save(value, sink)
    return sink.getvalue()


def parts_of(checkpoint: Checkpoint, **changes: Any) -> dict[str, Any]:
    """What is in a checkpoint's file, with some of it changed."""
    raw = {**as_dict(checkpoint), "classes": [list(pair) for pair in checkpoint.classes]}
    return {"kind": KIND, "format": FORMAT, **raw, **changes}


def test_a_truncated_file_is_named(data: bytes) -> None:
    for length in (0, 1, 10, 1000, len(data) // 2, len(data) - 1):
        with pytest.raises(CheckpointError, match=r"^runs/a/last\.pt is no readable checkpoint: \S"):
            Checkpoint.from_bytes(data[:length], "runs/a/last.pt")


def test_no_flipped_byte_passes_unseen(checkpoint: Checkpoint, data: bytes) -> None:
    chance = random.Random(0)
    found = 0
    for place in chance.sample(range(len(data)), 150):
        damaged = bytearray(data)
        damaged[place] ^= 1 << chance.randrange(8)
        try:
            read = Checkpoint.from_bytes(bytes(damaged), "last.pt")
        except CheckpointError as error:
            assert str(error).startswith("last.pt")
            found += 1
        else:  # in the padding between parts
            assert same(as_dict(read), {**as_dict(checkpoint), "weights": dict(checkpoint.weights)})
    assert found > 75


def test_weights_with_a_flipped_bit_are_found(data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        part = max(archive.infolist(), key=lambda part: part.file_size)
    damaged = bytearray(data)
    damaged[part.header_offset + 200 + part.file_size // 2] ^= 1
    torch.load(io.BytesIO(bytes(damaged)), weights_only=True)  # torch does not see it
    with pytest.raises(CheckpointError, match=rf"^last\.pt.*{part.filename} is damaged"):
        Checkpoint.from_bytes(bytes(damaged), "last.pt")


def legacy(value: Any) -> bytes:
    """Torch's format of before 1.6: pickles one after the other, without checksums."""
    sink = io.BytesIO()
    torch.save(value, sink, _use_new_zipfile_serialization=False)
    return sink.getvalue()


def archive(**members: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as packed:
        for name, content in members.items():
            packed.writestr(f"archive/{name.replace('_', '.')}", content)
    return sink.getvalue()


@pytest.mark.parametrize(
    "made",
    [
        b"hello",
        b"\x80\x04.",
        pickle.dumps({"kind": KIND}),
        legacy({"kind": KIND, "format": FORMAT}),
        archive(data_pkl=b""),
        archive(data_pkl=b"(((.", version=b"3"),
        archive(readme=b"hello"),
        saved([1, 2]),
        saved({"state_dict": {}}),
        saved({"kind": "another", "format": FORMAT}),
    ],
)
def test_foreign_files_are_named(made: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"^theirs\.pt"):
        Checkpoint.from_bytes(made, "theirs.pt")


def test_a_compressed_archive_is_refused_before_it_unfolds(data: bytes) -> None:
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as packed:
        for part in source.infolist():
            packed.writestr(part.filename, source.read(part))
    with pytest.raises(CheckpointError, match=r"^x\.pt is no readable checkpoint"):
        Checkpoint.from_bytes(sink.getvalue(), "x.pt")


@pytest.mark.parametrize("number", [0, 2, None, "1"])
def test_other_formats_are_said_to_be_of_another_version(checkpoint: Checkpoint, number: object) -> None:
    with pytest.raises(CheckpointError, match=rf"^x\.pt: expected format 1, got {number}: written by another version"):
        Checkpoint.from_bytes(saved(parts_of(checkpoint, format=number)), "x.pt")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "csn"),
        ("weights", {"pooling": [1.0]}),
        ("weights", None),
        ("step", "5"),
        ("step", -1),
        ("step", True),
        ("classes", [["/m/1"]]),
        ("classes", {"a": "b"}),
        ("columns", {"logmel": 3}),
        ("normalizers", {"logmel": {"mean": torch.zeros(3)}}),
        ("normalizers", {"logmel": torch.zeros(3)}),
        ("options", []),
        ("metrics", {1: 2}),
        ("trainer", None),
    ],
)
def test_a_part_of_another_kind_is_named(checkpoint: Checkpoint, name: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=rf"^x\.pt: {name} missing, or not"):
        Checkpoint.from_bytes(saved(parts_of(checkpoint, **{name: value})), "x.pt")


def test_missing_parts_are_named(checkpoint: Checkpoint) -> None:
    raw = parts_of(checkpoint)
    del raw["weights"], raw["versions"]
    with pytest.raises(CheckpointError, match=r"^x\.pt: weights, versions missing"):
        Checkpoint.from_bytes(saved(raw), "x.pt")


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.target, "run"))


def test_code_in_a_file_is_refused_and_does_not_run(checkpoint: Checkpoint, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    hostile = parts_of(checkpoint, trainer={"optimizer": Trap(sprung)})
    for made in (saved(hostile), legacy(hostile), pickle.dumps(hostile)):
        with pytest.raises(CheckpointError, match=r"^theirs\.pt is no readable checkpoint") as caught:
            Checkpoint.from_bytes(made, "theirs.pt")
        assert "weights_only" not in str(caught.value)  # torch advises to switch it off
        assert not sprung.exists()
    torch.load(io.BytesIO(saved(hostile)), weights_only=False)
    assert sprung.read_text() == "run"  # so it was a trap


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"model": "csn", "width": 1 / 32}},
        {"model": {"model": "nothing"}},
        {"model": {}},
        {"model": {"model": "video", "width": 1 / 3}},
        {"model": {"model": "video", "depth": 3}},
        {"weights": {}},
        {"weights": {"pooling.prediction.weight": torch.zeros(1)}},
    ],
    ids=str,
)
def test_weights_of_another_model_are_refused(checkpoint: Checkpoint, change: dict) -> None:
    with pytest.raises(CheckpointError, match="another model than its config"):
        dataclasses.replace(checkpoint, **change).build()
