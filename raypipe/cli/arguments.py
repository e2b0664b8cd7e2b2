"""Arguments that several commands share."""

import argparse


def add_configuration(parser: argparse.ArgumentParser) -> None:
    """``--config`` and the overrides, as every job takes them."""
    parser.add_argument("--config", help="YAML file; default: the embedded default")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")


def add_run(parser: argparse.ArgumentParser) -> None:
    """The run that a command is about."""
    parser.add_argument("run", metavar="RUN", help="path or URI of a run, or its name")
    parser.add_argument(
        "--directory", default="runs", help="where runs with a plain name live (run.directory)"
    )
