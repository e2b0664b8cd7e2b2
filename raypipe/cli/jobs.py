"""The command line of ``jobs/*.py``: parse first, import what is heavy after.

``--help`` and every configuration error answer before Ray, torch or vLLM are imported.
"""

import argparse
import os
import re
import select
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from raypipe import config as configuration
from raypipe.config import Config
from raypipe.errors import EXIT_UNREAD, ArtifactError, ConfigError, InputError, RaypipeError
from raypipe.runtime.interruption import stoppable
from raypipe.security.secrets import print_exception, redacted
from raypipe.store.paths import CATALOG

_VARIABLE = re.compile(r"^(sampling\.environment\.[^=]*)=.*", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """Repeats no secret of a command line that it does not understand."""

    def error(self, message: str) -> NoReturn:
        said, unknown, given = message.partition("unrecognized arguments: ")
        # A word may be what an option before it was to hold.
        words = (word.partition("=")[0] if word.startswith("-") else "…" for word in given.split())
        super().error(redacted(f"{said}{unknown}{' '.join(words)}"))


def main(
    job: str,
    description: str | None,
    arguments: Sequence[str] | None = None,
    program: str | None = None,
) -> int:
    """Parse the command line of a job and do it; returns the exit code.

    Args:
        program: what its help calls it; None is the script's own name.

    0 done, 2 configuration, 3 input or gate, 4 worth retrying (see :mod:`raypipe.errors`). Ctrl-C
    and SIGTERM end the process with 130 and 143.
    """
    sys.excepthook = print_exception
    parser = Parser(
        prog=program, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", help="YAML file; default: the embedded default")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    options = [parser.add_argument(name, **how) for name, how in _OPTIONS.get(job, {}).items()]
    parsed = parser.parse_intermixed_args(arguments)  # --config may stand anywhere
    given = {option.dest: getattr(parsed, option.dest) for option in options}
    with stoppable():
        try:
            config = configuration.load(parsed.config, parsed.overrides)
            _refuse_unpickling()
            _JOBS[job](config, **given)
            print(end="", flush=True)  # noqa: T201 - while a broken pipe can still be told
        except (RaypipeError, OSError) as error:
            return report_error(error)
        except KeyboardInterrupt:
            return 130
    return 0


def _refuse_unpickling() -> None:
    from raypipe.store import parquet

    parquet.refuse_unpickling(os.environ)


def report_error(error: RaypipeError | OSError) -> int:
    """Print an error without a traceback; returns its exit code.

    Raises:
        OSError: the error itself, when it is neither ours nor a storage's.
    """
    from raypipe.storage import failed, is_at_fault

    if isinstance(error, BrokenPipeError) and _is_unread():
        return EXIT_UNREAD
    if isinstance(error, OSError) and is_at_fault(error):
        error = failed("a file could not be read or written", error)
    if not isinstance(error, RaypipeError):
        raise error
    print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
    return error.exit_code


def _is_unread() -> bool:
    """Whether it is standard output that nobody reads; what is left for it is given up."""
    poll = select.poll()
    poll.register(1, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return True


def _round(config: Config) -> None:
    from raypipe.models.base_model import check_base_model
    from raypipe.rounds.driver import run_rounds
    from raypipe.runtime.console import Console

    check_base_model(config.model)
    run_rounds(config, Console())


def _annotate(config: Config, *, plan: bool) -> None:
    from raypipe.annotation.driver import annotate
    from raypipe.runtime.console import Console

    annotate(config, Console(), plan_only=plan)


def _prepare(config: Config) -> None:
    from raypipe.catalog import stage
    from raypipe.runtime.console import Console
    from raypipe.store.runs import open_run

    run, console = open_run(config), Console()
    console.stage_done(CATALOG.listings, stage.run(config, run))


def _report(config: Config) -> None:
    from raypipe.report import stage
    from raypipe.runtime.console import Console
    from raypipe.store.runs import begun_run

    Console().note(f"report {stage.run(config, begun_run(config))}")


def _export(config: Config) -> None:
    from raypipe.exports.run import export_run
    from raypipe.labeling.to_review import export_labels
    from raypipe.runtime.console import Console
    from raypipe.store.runs import begun_run

    run, console = begun_run(config), Console()
    exported = list(export_run(config, run))  # first: it refuses another configuration
    reviewed = export_labels(config, run)
    if reviewed is not None:
        console.note(f"labels to review: {reviewed}")
    for what, path in exported:
        console.note(f"{what}: {path}")
    if reviewed is None and not exported:
        raise InputError(f"{run.location} has nothing to export yet: finish a round first")


def _merge(config: Config, *, policy: str | None, target: str, dtype: str | None) -> None:
    from raypipe.exports.merged_checkpoint import merge
    from raypipe.models.base_model import check_base_model
    from raypipe.runtime.console import Console
    from raypipe.store.runs import begun_run

    check_base_model(config.model)
    merged = merge(config, begun_run(config), policy or "best", target, dtype=dtype)
    made_in = dtype or config.model.dtype
    Console().note(
        f"merged weights: {merged.path} ({made_in}, {merged.kept:.1%} of the adapter's effect kept)"
    )


def _label(config: Config, *, plan: bool) -> None:
    from raypipe.labeling.driver import label_catalog
    from raypipe.models.base_model import check_base_model
    from raypipe.runtime.console import Console

    check_base_model(config.model)
    label_catalog(config, Console(), plan_only=plan)


def _evaluate(config: Config) -> None:
    from raypipe.evals.driver import evaluate
    from raypipe.models.base_model import check_base_model
    from raypipe.runtime.console import Console

    if config.evals.endpoint is None:
        check_base_model(config.model)
    evaluate(config, Console())


def _sweep(config: Config, *, plan: bool) -> None:
    from raypipe.runtime.console import Console

    if plan:
        from raypipe.experiments.console import print_plan

        return print_plan(config, Console())
    from raypipe.experiments.driver import run_sweep
    from raypipe.models.base_model import check_base_model

    check_base_model(config.model)
    run_sweep(config, Console(), command=_typed(sys.argv))


def _typed(words: Sequence[str]) -> str:
    """What a person typed, for documents that say how they were made. What variables of an engine
    were set to is left out, as everywhere: null takes it from the environment."""
    words = [_VARIABLE.sub(r"\1=null", redacted(word)) for word in words]
    program = Path(words[0])
    if program.suffix == ".py":
        return shlex.join(["python", *words])
    return shlex.join([program.name, *words[1:]])


def _review(
    config: Config, *, answers: str | None, role: Literal["seed", "anchor", "eval"] | None
) -> None:
    from raypipe.labeling.to_review import export_labels
    from raypipe.review import console as review
    from raypipe.review.importing import import_reviews
    from raypipe.runtime.console import Console
    from raypipe.store.runs import begun_run

    if answers is not None and role is not None:
        review.print_imported(Console(), import_reviews(config, answers, role))
        return
    if answers is not None or role is not None:
        raise ConfigError("--import and --as need each other")
    run = begun_run(config)
    exported = export_labels(config, run)
    if exported is None:
        raise ArtifactError(f"{run.location} has no labels yet: make them with jobs/label.py")
    review.print_exported(Console(), config, exported)


_PLAN = {"--plan": {"action": "store_true", "help": "say what it would take, and stop"}}
_PLAN_LABEL = {
    "--plan": {
        "action": "store_true",
        "help": "say what it would take, and stop; the run's own catalog is prepared first, if it "
        "is not yet, and the catalog to label is surveyed; nothing is sampled",
    }
}
_OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "annotate": _PLAN,
    "label": _PLAN_LABEL,
    "sweep": _PLAN,
    "review": {
        "--import": {
            "dest": "answers",
            "metavar": "FILE",
            "help": "take up what people said: Label Studio's export as JSON or JSON-MIN",
        },
        "--as": {
            "dest": "role",
            "choices": ("seed", "anchor", "eval"),
            "help": "the split that these answers are for",
        },
    },
    "merge": {
        "--policy": {"help": "a policy of the run or an adapter's directory; default: best"},
        "--target": {"required": True, "help": "directory to write, not there yet or empty"},
        "--dtype": {
            "choices": ("float32", "bfloat16"),
            "help": "type of the weights; default: model.dtype. float32 loses nothing",
        },
    },
}
_JOBS: dict[str, Callable[..., None]] = {
    "annotate": _annotate,
    "evaluate": _evaluate,
    "label": _label,
    "round": _round,
    "prepare": _prepare,
    "report": _report,
    "export": _export,
    "review": _review,
    "merge": _merge,
    "sweep": _sweep,
}
