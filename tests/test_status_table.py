"""The tables of `status`: whole and aligned in a log, without markup read out of strangers' words."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console
from store_factory import make_store, plan_store

from stores.layout import Store
from stores.status import EgressStatus, StoreStatus, TarCounts, store_status
from stores.status_table import render

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def text_of(status: StoreStatus, *, terminal: bool = False, width: int = 80) -> str:
    file = io.StringIO()
    render(status, "/store", Console(file=file, width=width, force_terminal=terminal), NOW)
    return file.getvalue()


@pytest.fixture
def status(tmp_path: Path) -> StoreStatus:
    return store_status(make_store(tmp_path))


def test_a_log_gets_plain_aligned_lines(status: StoreStatus) -> None:
    lines = text_of(status).splitlines()
    start = lines.index("split  shards  clips  fetched  failed  pending  spool    media  garbage")
    assert lines[start + 1 : start + 4] == [
        "eval      3/3     12        9       2        1      0  51.7 kB      0 B",
        "  eval failed: gone 1, gone_here 1",
        "  eval pending: throttled 1; next attempt 2026-11-23 13:30:00 UTC",
    ]
    assert "  eval flags: no sound 1, no picture 1, short 1, still 1" in lines
    assert all(line == line.rstrip() and line.isascii() for line in lines)


def test_a_full_sized_store_fits_a_log_of_100_columns(status: StoreStatus) -> None:
    tars = TarCounts(3_988, 2_310_000_000_000, 12, 324_000_000, 0)
    (split,) = status.splits
    full = replace(
        split,
        split="unbalanced_train",
        shards=3_988,
        committed=3_988,
        clips=2_041_789,
        fetched=1_805_220,
        failed={"gone": 201_122, "unreachable": 3_812},
        pending={"throttled": 31_635},
        spool_clips=1_024,
        tars=tars,
    )
    column = replace(
        status.columns[1],
        column="r2plus1d_152-1a2b3c4d",
        split="unbalanced_train",
        current=3_900,
        stale=88,
        ok=1_801_220,
        undecodable=4_000,
        tars=tars,
        flags={"no_audio": 1_234, "no_video": 12_345, "mute": 123_456, "still": 98_765, "short": 43_210},
    )
    lines = text_of(replace(status, splits=(split, full), columns=(column,)), width=40).splitlines()
    assert max(map(len, lines)) <= 100, max(lines, key=len)
    table = [line for line in lines if line.startswith(("split ", "eval ", "unbalanced_train ")) and ":" not in line]
    assert len({len(line) for line in table[:3]}) == 1
    assert any("3,988/3,988  2,041,789  1,805,220  204,934" in line for line in lines)


def test_a_terminal_gets_a_table_with_styles(status: StoreStatus) -> None:
    text = text_of(status, terminal=True, width=100)
    assert "\x1b[1m" in text
    assert "──" in text
    assert "throttled 1; next attempt 2026-11-23 13:30:00 UTC" in text


def test_causes_are_not_read_as_markup(status: StoreStatus) -> None:
    split = replace(status.splits[0], failed={"[bold]odd[/bold]": 1})
    assert "[bold]odd[/bold] 1" in text_of(replace(status, splits=(split,)))


def test_what_is_due_is_due_now_and_lost_tars_are_pointed_at(status: StoreStatus, tmp_path: Path) -> None:
    lost = replace(status.splits[0], tars=replace(status.splits[0].tars, lost=2))
    assert "LOST: 2 committed tars" in text_of(replace(status, splits=(lost,)))
    planned = store_status(plan_store(tmp_path / "planned"))
    assert "pending: untried 12; next attempt now" in text_of(planned)


def test_egresses_that_wait(status: StoreStatus) -> None:
    until = "2026-11-23T12:30:00+00:00"
    shut = EgressStatus("youtube_home", until, 0.0)
    said = text_of(replace(status, egresses=(shut, EgressStatus("http_b", "2026-11-23T11:00:00+00:00", 24.0))))
    assert "egress youtube_home: its breaker is open until 2026-11-23 12:30:00 UTC" in said
    assert "egress http_b: was throttled, a clip each 24 s" in said
    assert said.count("egress") == 2


def test_an_empty_store(tmp_path: Path) -> None:
    assert "nothing is planned yet" in text_of(store_status(Store.open_or_create(str(tmp_path / "new"))))
