"""``raypipe plan``: what a job would take, before anything is spent.

Listings, queries, chains, tokens, hours and cost; what nobody can know yet is said to be unknown.
A plan of labels starts Ray: it prepares and commits the run's own catalog where that is not done
yet, decoding every image of it, and surveys the catalog to label. Nothing is sampled. The other
plans write nothing.
"""

import argparse

from raypipe.cli.arguments import add_configuration

SUMMARY = "what a job would take, before it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--job", choices=("round", "label", "sweep"), default="round", help="default: round"
    )
    add_configuration(parser)


def run(parsed: argparse.Namespace) -> int:
    """Print the plan; returns the exit code. Raises ConfigError."""
    from raypipe import config as configuration
    from raypipe.cli import jobs

    if parsed.job != "round":
        given = ["--config", parsed.config] if parsed.config is not None else []
        return jobs.main(parsed.job, None, ["--plan", *given, *parsed.overrides])
    from raypipe.rounds.console import print_plan
    from raypipe.runtime.console import Console

    print_plan(configuration.load(parsed.config, parsed.overrides), Console())
    return 0
