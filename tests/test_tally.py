"""Counts of tasks on their way to the progress display. The actor itself runs in tests/e2e."""

from __future__ import annotations

import pytest

from pipeline import tally
from pipeline.tally import Tally, TallyClient


class Actor:
    """In place of the actor: `.add.remote` is how it is called."""

    def __init__(self) -> None:
        self.tally, self.messages = Tally(), 0
        self.add = self

    def remote(self, counts: dict[str, int]) -> None:
        self.messages += 1
        self.tally.add(counts)


def test_at_most_a_message_a_second_and_nothing_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [50.0]
    monkeypatch.setattr(tally.time, "monotonic", lambda: now[0])
    actor = Actor()
    client = TallyClient(actor)
    for _ in range(30):
        now[0] += 0.1
        client(fetched=1, traffic=10)
    assert actor.messages <= 3
    client.flush()
    client.flush()
    assert actor.tally.read() == {"fetched": 30, "traffic": 300}
    assert actor.messages <= 4
