"""The account of a run: it adds up, and the exit code follows from it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from pipeline.columns import Column
from pipeline.summary import Summary, summarise
from pipeline.worklist import ShardState
from stores.ledger import LedgerRow, ledger_summary
from stores.specs import Spec

COLUMN = Column(Spec("logmel", "logmel", (400, 64), "float16", {}), sample_rate=16_000)


def state(
    shard: int, fetched: int, failed: int = 0, pending: int = 0, *, bad: int = 0, current: bool = True
) -> ShardState:
    rows = [LedgerRow(i, f"k{i}_0", "fetched", media_sha256="x", media_bytes=10) for i in range(fetched)]
    rows += [LedgerRow(i, f"k{i}_0", "failed", cause="gone") for i in range(fetched, fetched + failed)]
    rows += [LedgerRow(i, f"k{i}_0") for i in range(fetched + failed, fetched + failed + pending)]
    ledger = ledger_summary("eval", shard, rows, {})
    manifest = {
        "spec_digest": COLUMN.spec.digest,
        "input_digest": ledger["input_digest"] if current else "old",
        "labels_digest": "l",
        "counts": {"ok": fetched - bad, "undecodable": bad, "crashed": 0},
    }
    return ShardState("eval", shard, len(rows), "l", ledger, {COLUMN.name: manifest})


def test_totals_add_up_over_shards() -> None:
    total = summarise([state(0, 5, 2, 1), state(1, 4, bad=1)], [COLUMN])
    assert (total.planned, total.fetched, total.failed, total.pending) == (12, 9, {"gone": 2}, {"untried": 1})
    assert total.columns[COLUMN.name] == {"ok": 8, "undecodable": 1, "crashed": 0}
    assert total.media_bytes == 90
    total.check()
    text = "\n".join(total.lines())
    assert "planned 12 = fetched 9 + failed 2 + pending 1" in text
    assert "gone 2" in text
    assert "ok 8, undecodable 1" in text


def test_shards_that_were_never_begun_are_pending() -> None:
    total = summarise([ShardState("eval", 0, 7, "l")], [COLUMN])
    assert total.pending == {"untried": 7}
    assert total.stale[COLUMN.name] == 1
    assert total.exit_code(1.0) == 1


@pytest.mark.parametrize(
    ("states", "fraction", "code"),
    [
        ([state(0, 10)], 0.0, 0),
        ([state(0, 9, 1)], 0.0, 1),
        ([state(0, 9, 1)], 0.1, 0),
        ([state(0, 9, 1)], 0.09, 1),
        ([state(0, 10, bad=1)], 0.0, 1),
        ([state(0, 9, 1, bad=1)], 0.1, 1),
        ([state(0, 9, pending=1)], 1.0, 1),
        ([state(0, 10, current=False)], 1.0, 1),
    ],
)
def test_exit_code_is_0_only_when_nothing_is_left_and_few_enough_failed(states, fraction: float, code: int) -> None:
    assert summarise(states, [COLUMN]).exit_code(fraction) == code


def test_a_broken_invariant_is_loud() -> None:
    with pytest.raises(AssertionError, match="planned 3"):
        Summary(planned=3, fetched=2).check()
    with pytest.raises(AssertionError, match="ok \\+ undecodable"):
        Summary(planned=2, fetched=2, columns={"c": Counter(ok=1)}, stale={"c": 0}).check()


def test_the_exit_code_is_explained() -> None:
    total = summarise([state(0, 8, 1, 1, bad=1), state(1, 3, current=False)], [COLUMN])
    text = "\n".join(total.reasons(0.0))
    assert "1 clips are pending" in text
    assert "1 column shards" in text
    assert "2 of 13 clips failed" in text
    assert summarise([state(0, 10)], [COLUMN]).reasons(0.0) == []
    (why,) = summarise([replace(state(0, 10), lost_media=2)], [COLUMN]).reasons(1.0)
    assert "2 media tars are missing" in why and "verify" in why
    assert "nothing to do" in "\n".join(total.lines())
