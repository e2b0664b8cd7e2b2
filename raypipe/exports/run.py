"""What a run has to give to others: pairs, chains and adapters, each in its ecosystem's form."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

from raypipe.config import Config
from raypipe.exports.adapters import export_adapter
from raypipe.exports.chains import export_chains
from raypipe.exports.preferences import export_preferences
from raypipe.models.policies import PRETRAINED, SFT, check_origin, round_name
from raypipe.store.artifacts import Run
from raypipe.store.paths import CATALOG, Paths
from raypipe.store.runs import exports_of


def export_run(config: Config, run: Run) -> Iterator[tuple[str, Path]]:
    """Export what the run has committed so far, below its :func:`exports_of`.

    Yields:
        What was exported, and where: ``<scope>/preferences.parquet`` of pairs,
        ``<scope>/chains.parquet`` of chains that were voted on, ``adapters/<policy>``.

    Raises:
        ConfigDriftError: the configuration names another base model, answer format, LoRA or image
            size than the run was made with; nothing was exported.
    """
    for scope in _scopes(run):
        check_origin(config, run, CATALOG.listings, Paths(scope).chains, Paths(scope).adapter)
    root = exports_of(config, run)
    for scope in _scopes(run):
        pairs = run.artifact(Paths(scope).pairs).commit()
        if pairs is not None and pairs.rows:
            yield f"pairs of {scope}", export_preferences(config, run, scope, root / scope)
        if pairs is not None:
            yield f"chains of {scope}", export_chains(config, run, scope, root / scope)
        if run.artifact(Paths(scope).adapter).commit() is not None:
            (root / "adapters").mkdir(parents=True, exist_ok=True)
            path = export_adapter(config, run, scope, root / "adapters" / scope)
            yield f"adapter of {scope}", path


def _scopes(run: Run) -> Iterator[str]:
    """Where a run of rounds commits, in the order of rounds."""
    yield PRETRAINED
    yield SFT
    for number in count(1):
        name = round_name(number)
        yield Paths.of_redraw(name)
        if run.artifact(Paths(name).adapter).commit() is None:
            return
        yield name
