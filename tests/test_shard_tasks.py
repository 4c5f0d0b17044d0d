"""What an ingest's options mean for its tasks; the tasks themselves run in tests/e2e."""

from __future__ import annotations

import pickle

import pytest

from pipeline.columns import build_columns
from pipeline.failures import Cause
from pipeline.options import IngestOptions
from pipeline.shard_tasks import job_context

BASE = IngestOptions(store="/s", source="http:http://h/{ytid}.mp4", segments=("mine=/a.csv",))


def test_options_reach_the_tasks() -> None:
    options = IngestOptions(
        **{**vars(BASE), "retry": "gone,crashed", "fetch_threads": 3, "wait": 7.0, "cpus_per_shard": 2}
    )
    columns = build_columns(["logmel"], lambda _: None)
    context = job_context(options, columns, options.retry_statuses)
    assert (context.store, context.source, context.columns, context.processes) == ("/s", BASE.source, columns, 2)
    assert context.again == {"crashed"} and context.policy.retry == {Cause.GONE, Cause.CRASHED}
    assert (context.policy.threads, context.policy.wait_s, context.policy.keep_media) == (3, 7.0, True)
    assert not context.policy.keep_spool and not context.source_is_folder
    assert pickle.loads(pickle.dumps(context)) == context  # it travels with every task


@pytest.mark.parametrize(("columns", "spool"), [("logmel", True), ("none", False)])
def test_with_media_dropped_the_spool_stays_for_columns(columns: str, spool: bool) -> None:
    options = IngestOptions(store="/s", source="dir:/clips", segments=("mine=/a.csv",), columns=columns)
    context = job_context(options, build_columns(options.column_names, lambda _: None), frozenset())
    assert context.source_is_folder and not context.policy.keep_media and context.policy.keep_spool is spool


def test_budgets_are_kept_by_source_and_address() -> None:
    """A job that reads a server of ours shares nothing with one that asks YouTube by the same address."""
    names = []
    for source in ("youtube", "http:https://user:word@host:81/{ytid}.mp4", "ytdlp:https://host/{ytid}"):
        options = IngestOptions(store="/s", source=source, segments=("a=/a.csv",))
        names += job_context(options, (), frozenset()).limits
    assert names == ["youtube_default", "host-81_default", "host_default"]
