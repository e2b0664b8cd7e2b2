"""Listings per second of the vote, from the first read to the commit of both tables.

    python benchmarks/vote.py                        two CPU cores, 20,000 listings
    python benchmarks/vote.py --listings 4000

Five attributes of six values, seven chains of thirty words each, in files of 128 listings, as
sampling writes them; pairs are drawn and written. The same run votes in one process and as tasks of
a Ray session, in turns, each time into a scope of its own. The last line is JSON.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from typing import Any

from raypipe.attributes.schema import Attribute, AttributeSchema
from raypipe.catalog.queries import queries_of
from raypipe.config import Config
from raypipe.config import load as load_config
from raypipe.consensus import stage
from raypipe.runtime.cluster import ray_session
from raypipe.schemas import CHAINS, LISTINGS
from raypipe.store.artifacts import Run
from raypipe.store.paths import ATTRIBUTE_SCHEMA

VALUES = ("Red", "Blue", "Green", "Black", "White", "Yellow")
SCHEMA = AttributeSchema(
    tuple(Attribute("Shirt", f"attribute {n}", "One of several.", VALUES) for n in range(5))
)
LISTINGS_PER_FILE, CHAINS_PER_FILE, NUM_CHAINS, WORDS = 256, 128, 7, 30


def make_run(location: str, num_listings: int) -> Run:
    """A run with listings, of which images are a byte, and their chains."""
    run, lottery = Run(location), random.Random(0)
    listings = run.artifact("catalog/listings", LISTINGS).attempt({})
    for first in range(0, num_listings, LISTINGS_PER_FILE):
        names = range(first, min(num_listings, first + LISTINGS_PER_FILE))
        listings.write(LISTINGS.from_rows([_listing(f"l{name:08}") for name in names]))
    listings.write_json(ATTRIBUTE_SCHEMA, SCHEMA.to_json())
    listings.commit()
    chains = run.artifact("sft/chains", CHAINS).attempt({"policy_id": "policy"})
    for first in range(0, num_listings, CHAINS_PER_FILE):
        names = range(first, min(num_listings, first + CHAINS_PER_FILE))
        chains.write(CHAINS.from_rows([_chains(f"l{name:08}", lottery) for name in names]))
    chains.commit()
    return run


def _listing(listing_id: str) -> dict[str, Any]:
    queries = [
        {
            "attribute": query.attribute,
            "prompt": query.prompt,
            "options": list(query.options),
            "seller_value": None,
        }
        for query in queries_of(SCHEMA.attributes("Shirt"), {})
    ]
    row = {"listing_id": listing_id, "vertical": "Shirt", "split": "pool", "queries": queries}
    return row | {"group_id": None, "images": [b"x"], "image_hashes": ["h"], "source_key": None}


def _chains(listing_id: str, lottery: random.Random) -> dict[str, Any]:
    def chain() -> dict[str, Any]:
        words = " ".join(f"w{lottery.randrange(999)}" for _ in range(WORDS))
        answer = lottery.choice([*VALUES[:2] * 3, *VALUES])
        text = f"<reasoning>{words}</reasoning><answer>{answer}</answer>"
        return {"text": text, "token_ids": [1] * 60, "logprob": -1.0, "finish_reason": "stop"}

    queries = [
        {"attribute": entry.name, "greedy": None, "chains": [chain() for _ in range(NUM_CHAINS)]}
        for entry in SCHEMA.entries
    ]
    row = {"listing_id": listing_id, "vertical": "Shirt", "split": "pool", "policy_id": "policy"}
    return row | {"queries": queries}


def seconds(run: Run, scope: str) -> float:
    started = time.monotonic()
    stage.run(Config(), run, scope=scope, round_index=1, chains_of="sft")
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--listings", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, list[float]] = {"one_process": [], "tasks": []}
    with tempfile.TemporaryDirectory(prefix="raypipe-vote-") as directory:
        run = make_run(directory, options.listings)
        for number in range(options.repeats):
            found["one_process"].append(seconds(run, f"here-{number}"))
            with ray_session(load_config().cluster):
                seconds(run, f"warm-{number}")  # workers are up and have imported
                found["tasks"].append(seconds(run, f"tasks-{number}"))
    rates = {
        name: round(options.listings / statistics.median(times)) for name, times in found.items()
    }
    ratio = round(rates["tasks"] / rates["one_process"], 2)
    result = {"benchmark": "vote", "listings": options.listings, "listings_per_s": rates}
    print(json.dumps(result | {"ratio": ratio}))


if __name__ == "__main__":
    main()
