"""CSN: the published sizes, and the order of its parts."""

from __future__ import annotations

import pytest
import torch
from small_models import random_clips, small_model, stir_batch_norms

from models.csn import Csn, CsnConfig


@pytest.mark.parametrize(("shared_blocks", "parameters"), [(True, 12_097_662), (False, 18_399_358)])
def test_parameters_are_as_published(shared_blocks: bool, parameters: int) -> None:
    with torch.device("meta"):
        model = Csn(CsnConfig(shared_blocks=shared_blocks))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert sum(parameter.numel() for parameter in model.convs.parameters()) == 4_715_616


def test_pools_over_a_hundred_frames_of_both_blocks() -> None:
    model = small_model("csn", shared_blocks=False).eval()
    assert isinstance(model, Csn)
    stir_batch_norms(model)
    clips = random_clips(2)
    frames = model.convs(clips["logmel"])
    assert frames.shape == (2, 100, 64)
    first, second = model.transformer.blocks
    torch.testing.assert_close(model(clips), model.pooling(second(first(frames))), rtol=0, atol=0)


def test_time_order_does_not_matter_after_the_convolutions() -> None:
    """No positional encoding: shuffled frames give the same score."""
    model = small_model("csn").double().eval()
    assert isinstance(model, Csn)
    frames = model.convs(random_clips(2, dtype=torch.float64)["logmel"])
    shuffled = frames[:, torch.randperm(100, generator=torch.Generator().manual_seed(0))]
    scores = [model.pooling(model.transformer(x)) for x in (frames, shuffled)]
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-12)
