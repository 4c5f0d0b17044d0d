#!/usr/bin/env python
"""Entry: a whole study from a feature store to its report, on an embedded Ray or on a cluster (`ray job submit`)."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import ray
import tyro
from rich.console import Console

from attacks.study_options import StudyOptions, absolute_paths
from attacks.study_runner import StudyFailed, environment_for, run_study
from attacks.study_tasks import ROOT, StudyTasks
from pipeline.summary import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, interrupt_on_sigterm
from stores.job_folder import JobFolder
from stores.layout import Store
from stores.storage import StorageError


def main() -> int:
    """Runs a study and returns the exit code: 0 done, 2 usage, 3 a command failed, 130 interrupted."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    console = Console(highlight=False, soft_wrap=True)
    interrupt_on_sigterm()
    try:
        options = absolute_paths(tyro.cli(StudyOptions, prog="study.py"))
        study = options.study()
        if options.print_config:
            print(json.dumps(study.to_dict(), indent=2))
            return EXIT_OK
        store = Store.open(options.store)
        store.require_splits(*sorted({name for listed in study.splits.values() for name in listed}))
        folder = JobFolder(options.out, "study.json")
        folder.claim(study.to_dict())
    except (ValueError, StorageError) as error:
        print(f"study: {error}", file=sys.stderr)
        return EXIT_USAGE
    tasks = StudyTasks(study, options.store, options.out, options.job_flags)
    try:
        if not all(tasks.done(task) for task in tasks.tasks()):
            ray.init()
            interrupt_on_sigterm()
            environment = environment_for(ray.get_runtime_context().gcs_address)
            run_study(tasks, environment, console.print, options.at_once)
    except (ConnectionError, TimeoutError, RuntimeError, ValueError, StorageError, StudyFailed) as error:
        print(f"study: {error}; the same command goes on", file=sys.stderr)
        return EXIT_INTERNAL
    except KeyboardInterrupt:
        print("study: stopped; the same command goes on", file=sys.stderr)
        return EXIT_INTERRUPTED
    report = [sys.executable, str(ROOT / "attacks/report.py"), "--study", options.out]
    console.print(f"report: python {' '.join(report[1:])}")
    return subprocess.run(report, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
