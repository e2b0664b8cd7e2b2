"""Recorded chains for benchmarks/trust.py: what 7 sampled chains and the greedy one answered.

    python benchmarks/trust_chains.py runs/a runs/b --output benchmarks/data/trust_chains.parquet

Each run holds ``sft/chains`` with sampled and greedy chains of its anchor and eval listings, and
the truth of both; its seed is that of its configuration. Queries without a verified value are left
out.
"""

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raypipe.attributes.parser import parse
from raypipe.attributes.schema import AttributeSchema
from raypipe.schemas import CHAINS, LISTINGS, TRUTH
from raypipe.store.artifacts import Run
from raypipe.store.paths import ATTRIBUTE_SCHEMA
from raypipe.trust.signals import ChainAnswer, QueryChains

_CHAIN = pa.struct(
    [
        pa.field("answer", pa.string()),  # null where the chain is invalid
        pa.field("reason", pa.string()),  # a code of ChainReason, "ok" with an answer
        pa.field("logprob", pa.float32()),  # sum over the answer's tokens, in nats, or null
        pa.field("mean_logprob", pa.float32()),  # mean over all tokens of the chain
    ]
)
SCHEMA = pa.schema(
    [
        pa.field("seed", pa.int32()),  # of the run
        pa.field("split", pa.string()),  # "anchor" or "eval"
        pa.field("listing_id", pa.string()),
        pa.field("vertical", pa.string()),
        pa.field("attribute", pa.string()),
        pa.field("truth", pa.string()),
        pa.field("options", pa.list_(pa.string())),  # the allowed values
        pa.field("chains", pa.list_(_CHAIN)),  # sampled, chain i of seed + i
        pa.field("greedy", _CHAIN),
    ]
)
MAX_BYTES = 2 * 1024 * 1024


@dataclass(frozen=True)
class RecordedQuery:
    """A query of a run with its chains and its verified value."""

    seed: int
    split: str
    truth: str
    chains: QueryChains


def read(path: Path) -> list[RecordedQuery]:
    table = pq.read_table(path, schema=SCHEMA)
    return [
        RecordedQuery(
            row["seed"],
            row["split"],
            row["truth"],
            QueryChains(
                row["listing_id"],
                row["vertical"],
                row["attribute"],
                tuple(_answer(chain) for chain in row["chains"]),
                _answer(row["greedy"]),
            ),
        )
        for row in table.to_pylist()
    ]


def _answer(chain: dict[str, Any]) -> ChainAnswer:
    mean = math.exp(chain["mean_logprob"])
    known = chain["logprob"] is not None
    return ChainAnswer(chain["answer"], math.exp(chain["logprob"]) if known else mean, mean)


def recorded(run: Run, seed: int, scope: str) -> Iterator[dict[str, Any]]:
    """Rows of SCHEMA: the anchor and eval queries of a run that have a verified value."""
    listings = run.artifact("catalog/listings", LISTINGS)
    schema = AttributeSchema.from_json(listings.read_json(ATTRIBUTE_SCHEMA))
    truth = {
        (row["listing_id"], answer["attribute"]): answer["value"]
        for row in run.artifact("catalog/truth", TRUTH).read().to_pylist()
        for answer in row["answers"]
    }
    for row in run.artifact(f"{scope}/chains", CHAINS).read().to_pylist():
        for query in row["queries"]:
            value = truth.get((row["listing_id"], query["attribute"]))
            if row["split"] not in ("anchor", "eval") or value is None:
                continue
            if not query["greedy"] or not query["chains"]:
                continue
            attribute = schema.get(row["vertical"], query["attribute"])
            yield {
                **{name: row[name] for name in ("split", "listing_id", "vertical")},
                "seed": seed,
                "attribute": attribute.name,
                "truth": value,
                "options": list(attribute.values),
                "chains": [_chain(chain, attribute) for chain in query["chains"]],
                "greedy": _chain(query["greedy"], attribute),
            }


def _chain(chain: dict[str, Any], attribute: Any) -> dict[str, Any]:
    answer = parse(chain["text"], chain["finish_reason"], attribute, "reasoning")
    return {
        "answer": answer.value,
        "reason": str(answer.reason),
        "logprob": chain.get("answer_logprob"),
        "mean_logprob": chain["logprob"] / max(1, len(chain["token_ids"])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--scope", default="sft")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    rows = []
    for place in options.runs:
        seed = json.loads((place / "run.json").read_text())["run"]["seed"]
        rows += recorded(Run(str(place)), seed, options.scope)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    pq.write_table(table, options.output, compression="zstd")
    size = options.output.stat().st_size
    assert size <= MAX_BYTES, f"{size} bytes are more than {MAX_BYTES}"
    print(f"{options.output}: {len(rows)} queries, {size} bytes")


if __name__ == "__main__":
    main()
