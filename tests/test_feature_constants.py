"""The columns' constants: plain data, those of the networks, and at hand without Torch."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from models.feature_constants import EMBEDDING_DIMS, WINDOW_NAMES, LogMelConfig
from models.frontend import WINDOWS
from models.r2plus1d import ARCHITECTURES


def test_they_are_those_of_what_computes_them() -> None:
    assert {name: network.dim for name, network in ARCHITECTURES.items()} == EMBEDDING_DIMS
    assert set(WINDOW_NAMES) == set(WINDOWS)


def test_config_is_plain_data_that_a_spec_can_hold() -> None:
    spec = dataclasses.asdict(LogMelConfig())
    assert json.loads(json.dumps(spec)) == spec


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frames": 402}, "at most 401"),
        ({"window": "boxcar"}, "hann"),
        ({"window_samples": 5000}, "n_fft"),
        ({"f_max_hz": 9000.0}, "8000"),
    ],
)
def test_contradicting_constants_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LogMelConfig(**changes)  # type: ignore[arg-type]


def test_columns_are_named_without_torch() -> None:
    """A driver that only reads a finished store's footers would spend most of its time on the import."""
    code = (
        "import sys; import pipeline.ingest; from pipeline.columns import *; from pipeline.weights import *; "
        "build_columns(feature_names(), lambda name: EncoderOptions(resolve_weights('random:0', name))); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
