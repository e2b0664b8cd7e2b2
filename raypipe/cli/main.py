"""raypipe: every job, and what is asked before, during and after one.

    raypipe doctor                     is this machine fit, and the configuration right?
    raypipe plan --job round           what would a run take?
    raypipe round --config my.yaml     the same as python jobs/round.py --config my.yaml
    raypipe status my-run              what is done, and what is next?

Exit codes: 0 done, 2 configuration or usage, 3 input or gate, 4 worth trying again,
130 and 143 stopped by Ctrl-C or SIGTERM, 141 nobody reads what is printed (| head).
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from raypipe.runtime.interruption import KEPT, stoppable

# A command is a module with a SUMMARY, add_arguments(parser) and run(parsed) -> exit code. What is
# heavy is imported by run.
COMMANDS = {
    "init": "raypipe.cli.init",
    "doctor": "raypipe.cli.doctor",
    "plan": "raypipe.cli.plan",
    "status": "raypipe.cli.status",
    "report": "raypipe.cli.report",
    "gc": "raypipe.cli.gc",
}
# The jobs, by the names that they have in jobs/; their arguments are their own.
JOBS = {
    "annotate": "annotate a seed through an endpoint",
    "prepare": "check a catalog and its attribute schema and prepare its listings",
    "round": "run, resume or repeat a whole run",
    "label": "label a catalog with a policy of a run",
    "evaluate": "judge a policy or an endpoint on labeled listings",
    "sweep": "the paper's experiments, arm by arm",
    "review": "labels out to people, and their answers back",
    "merge": "write a policy's merged weights, for serving with plain vLLM",
    "export": "pairs, chains, adapters and reviews in formats of others",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in JOBS:
        job = given[0]
        with stoppable(KEPT):  # first: what is imported takes a second
            from raypipe.cli import jobs

            return jobs.main(job, JOBS[job], given[1:], program=f"raypipe {job}")
    with stoppable("stopped"):
        return _command(given)


def _command(given: list[str]) -> int:
    from raypipe.cli import jobs
    from raypipe.errors import RaypipeError
    from raypipe.security.secrets import print_exception

    sys.excepthook = print_exception
    parsed = _parser(jobs.Parser).parse_args(given)
    try:
        code = int(parsed.run_command(parsed))
        print(end="", flush=True)  # noqa: T201 - while a broken pipe can still be told
        return code
    except (RaypipeError, OSError) as error:
        return jobs.report_error(error)
    except KeyboardInterrupt:
        return 130


def _parser(kind: type[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    parser = kind(
        prog="raypipe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, module_name in COMMANDS.items():
        module = import_module(module_name)
        own = commands.add_parser(name, help=module.SUMMARY, description=module.__doc__)
        own.formatter_class = argparse.RawDescriptionHelpFormatter
        module.add_arguments(own)
        own.set_defaults(run_command=module.run)
    for name, summary in JOBS.items():
        commands.add_parser(name, help=summary, add_help=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
