"""How many listings and queries a run has: counted where its catalog is prepared, else assumed."""

from pathlib import Path

from raypipe.config import Config
from raypipe.runtime.cost import SplitSize
from raypipe.schemas import LISTINGS
from raypipe.store.artifacts import Run
from raypipe.store.paths import CATALOG

# Paper §2 and §3.1: 120 seed listings with 627 queries, 3,175 test listings with 7,145.
_PAPER_LISTINGS = {"pool": 5000, "seed": 120, "eval": 3175, "anchor": 600}
_PAPER_QUERIES = {"pool": 5.2, "seed": 5.2, "eval": 2.25, "anchor": 2.25}


def run_if_there(config: Config) -> Run | None:
    """The configured run, or None where there is none yet: opening it would make it."""
    location = f"{config.run.directory.rstrip('/')}/{config.run.name}"
    return Run(location) if "://" in location or Path(location).exists() else None


def sizes_of(config: Config) -> tuple[dict[str, SplitSize], bool]:
    """Listings and queries by split, and whether they were counted.

    Until the catalog is prepared they are those of the configuration, and the paper's where it
    says nothing.
    """
    counted = _counted(config)
    return (_assumed(config), False) if counted is None else (counted, True)


def _counted(config: Config) -> dict[str, SplitSize] | None:
    """Listings and queries per split of the prepared catalog; None when it is not there."""
    run = run_if_there(config)
    if run is None:
        return None
    listings = run.artifact(CATALOG.listings, LISTINGS)
    if listings.commit() is None:
        return None
    counts: dict[str, tuple[int, int]] = {}
    for table in listings.read_files(["split", "queries"]):
        lengths = table.column("queries").combine_chunks().value_lengths().to_pylist()
        for split, length in zip(table.column("split").to_pylist(), lengths, strict=True):
            before = counts.get(split, (0, 0))
            counts[split] = (before[0] + 1, before[1] + length)
    return {name: SplitSize(*counts.get(name, (0, 0))) for name in _PAPER_LISTINGS}


def _assumed(config: Config) -> dict[str, SplitSize]:
    listings = dict(_PAPER_LISTINGS)
    embedded = config.catalog.embedded
    if embedded is not None:
        from raypipe.embedded.schema import attributes, verticals

        total = sum(len(entries) for entries in attributes().values())
        listings = {
            "pool": embedded.num_pool,
            "seed": embedded.seed_per_vertical * len(verticals()),
            "eval": embedded.num_eval,
            "anchor": embedded.num_anchor,
        }
        queries = dict.fromkeys(listings, total / len(verticals()))
    else:
        listings["pool"] = config.catalog.max_listings or listings["pool"]
        queries = dict(_PAPER_QUERIES)
    return {name: SplitSize(size, round(size * queries[name])) for name, size in listings.items()}
