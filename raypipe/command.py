"""The command line of ``jobs/*.py``: parse first, import what is heavy after.

``--help`` and every configuration error answer before Ray, torch or vLLM are imported.
"""

import argparse
import shlex
import signal
import sys
from collections.abc import Callable, Sequence

from raypipe import config as configuration
from raypipe.config import Config
from raypipe.errors import InputError, RaypipeError


def main(job: str, description: str | None, arguments: Sequence[str] | None = None) -> int:
    """Parse the command line of a job and do it; returns the exit code.

    0 done, 2 configuration, 3 input or gate, 4 worth retrying (see :mod:`raypipe.errors`).
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", help="YAML file; default: jobs/configs/local.yaml")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    for flag, meaning in _FLAGS.get(job, {}).items():
        parser.add_argument(f"--{flag}", action="store_true", help=meaning)
    for option, meaning in _OPTIONS.get(job, {}).items():
        parser.add_argument(f"--{option}", required=option in _REQUIRED, help=meaning)
    parsed = parser.parse_args(arguments)
    named = (*_FLAGS.get(job, {}), *_OPTIONS.get(job, {}))
    flags = {name: getattr(parsed, name) for name in named}
    # A job that is stopped gets SIGTERM; leaving through SystemExit shuts Ray down on the way.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        _JOBS[job](configuration.load(parsed.config, parsed.overrides), **flags)
    except RaypipeError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


def _round(config: Config) -> None:
    from raypipe.rounds.console import Console
    from raypipe.rounds.driver import run_rounds

    run_rounds(config, Console())


def _prepare(config: Config) -> None:
    from raypipe.catalog import stage
    from raypipe.rounds.console import Console
    from raypipe.runs import open_run

    run, console = open_run(config), Console()
    console.committed("catalog/listings", stage.run(config, run))


def _report(config: Config) -> None:
    from raypipe.report import stage
    from raypipe.rounds.console import Console
    from raypipe.runs import open_run

    Console().note(f"report {stage.run(config, open_run(config))}")


def _export(config: Config) -> None:
    from raypipe.labeling.driver import export_labels
    from raypipe.rounds.console import Console
    from raypipe.rounds.exports import export_run
    from raypipe.runs import open_run

    run, console = open_run(config), Console()
    reviewed = export_labels(config, run)
    if reviewed is not None:
        console.note(f"labels to review: {reviewed}")
    exported = list(export_run(config, run))
    for what, path in exported:
        console.note(f"{what}: {path}")
    if reviewed is None and not exported:
        raise InputError(f"{run.location} has nothing to export yet: finish a round first")


def _merge(config: Config, *, policy: str | None, target: str) -> None:
    from raypipe.rounds.console import Console
    from raypipe.runs import open_run
    from raypipe.sampling.merge import merge

    path = merge(config, open_run(config), policy or "best", target)
    Console().note(f"merged weights: {path}")


def _label(config: Config, *, plan: bool) -> None:
    from raypipe.labeling.console import LabelingConsole
    from raypipe.labeling.driver import label_catalog

    label_catalog(config, LabelingConsole(), plan_only=plan)


def _evaluate(config: Config) -> None:
    from raypipe.judging.console import JudgingConsole
    from raypipe.judging.driver import evaluate

    evaluate(config, JudgingConsole())


def _sweep(config: Config, *, plan: bool) -> None:
    from raypipe.sweep.console import SweepConsole

    if plan:
        from raypipe.sweep.estimate import expect

        SweepConsole().plan(config, expect(config))
        return
    from raypipe.sweep.driver import run_sweep

    run_sweep(config, SweepConsole(), command=shlex.join(["python", *sys.argv]))


_PLAN = {"plan": "say what it would take, and stop"}
_FLAGS = {"label": _PLAN, "sweep": _PLAN}
_OPTIONS = {
    "merge": {
        "policy": "a policy of the run or an adapter's directory; default: best",
        "target": "directory to write, not there yet or empty",
    }
}
_REQUIRED = frozenset({"target"})
_JOBS: dict[str, Callable[..., None]] = {
    "evaluate": _evaluate,
    "label": _label,
    "round": _round,
    "prepare": _prepare,
    "report": _report,
    "export": _export,
    "merge": _merge,
    "sweep": _sweep,
}
