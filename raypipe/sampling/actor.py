"""A Ray Data actor that owns one engine and turns listings into chains."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from raypipe import seeds
from raypipe.artifacts import Run
from raypipe.sampling.engine import Chain, Prompt, Request
from raypipe.schemas import CHAINS, QUARANTINE

GREEDY_SPLITS = frozenset({"eval", "anchor"})
SAMPLED_SPLITS = frozenset({"pool", "anchor"})


class ChainSource(Protocol):
    """What the actor needs of an engine."""

    max_prompt_tokens: int

    def generate(self, requests: list[Request]) -> list[list[Chain]]: ...

    def num_prompt_tokens(self, prompt: Prompt) -> int: ...


class SamplingActor:
    """Maps batches of listings to batches of chains, one row per listing.

    Args:
        make_engine: starts the engine in this process.
        policy_id: written on every row.
        num_chains: chains per pool and anchor query; 0 makes the greedy pass alone.
        greedy: whether eval and anchor queries get a greedy chain.
        seed_parts: what the seeds of this sampling depend on beside listing and attribute.
        run, quarantine: where refused listings are written.
    """

    def __init__(
        self,
        make_engine: Callable[[], ChainSource],
        *,
        policy_id: str,
        num_chains: int,
        greedy: bool = True,
        seed_parts: tuple[str | int, ...],
        run: Run,
        quarantine: str,
    ) -> None:
        self._engine = make_engine()
        self._policy_id = policy_id
        self._num_chains = num_chains
        self._greedy_splits = GREEDY_SPLITS if greedy else frozenset()
        self._seed_parts = seed_parts
        self._run = run
        self._quarantine = quarantine

    def __call__(self, batch: pa.Table) -> pa.Table:
        """LISTINGS rows in, CHAINS rows out; a listing that cannot be asked goes to quarantine."""
        listings, refused = [], []
        for row in batch.to_pylist():
            problem = self._problem(row)
            if problem is None:
                listings.append(row)
            else:
                refused.append(problem)
        if refused:
            self._refuse(refused)
        requests = [request for row in listings for request in self._requests(row)]
        chains = iter(self._engine.generate(requests) if requests else [])
        return CHAINS.from_rows([self._row(listing, chains) for listing in listings])

    def _problem(self, listing: dict[str, Any]) -> dict[str, object] | None:
        longest = max(listing["queries"], key=lambda query: len(query["prompt"]))
        length = self._engine.num_prompt_tokens(_prompt(listing, longest))
        if length <= self._engine.max_prompt_tokens:
            return None
        return {
            "id": listing["listing_id"],
            "stage": "sampling",
            "reason": "prompt_too_long",
            "detail": f"{length} tokens, the engine takes {self._engine.max_prompt_tokens}",
        }

    def _requests(self, listing: dict[str, Any]) -> Iterator[Request]:
        """A listing's requests, adjacent so that they share its prefix in the engine's cache."""
        for query in listing["queries"]:
            prompt = _prompt(listing, query)
            if listing["split"] in self._greedy_splits:
                yield Request(prompt, 0, 0)
            if self._num_chains and listing["split"] in SAMPLED_SPLITS:
                seed = seeds.derive(*self._seed_parts, listing["listing_id"], query["attribute"])
                yield Request(prompt, self._num_chains, seed)

    def _row(self, listing: dict[str, Any], chains: Iterator[list[Chain]]) -> dict[str, object]:
        queries = []
        for query in listing["queries"]:
            greedy = next(chains)[0] if listing["split"] in self._greedy_splits else None
            sampled: list[Chain] = []
            if self._num_chains and listing["split"] in SAMPLED_SPLITS:
                sampled = next(chains)
            queries.append(
                {
                    "attribute": query["attribute"],
                    "greedy": _struct(greedy) if greedy is not None else None,
                    "chains": [_struct(chain) for chain in sampled],
                }
            )
        return {
            "listing_id": listing["listing_id"],
            "vertical": listing["vertical"],
            "split": listing["split"],
            "policy_id": self._policy_id,
            "queries": queries,
        }

    def _refuse(self, rows: list[dict[str, object]]) -> None:
        path = f"{self._quarantine}/{uuid.uuid4().hex}.parquet"
        pq.write_table(
            QUARANTINE.from_rows(rows),
            path,
            filesystem=self._run.filesystem,
            write_page_checksum=True,
        )


def _prompt(listing: dict[str, Any], query: dict[str, Any]) -> Prompt:
    return Prompt(query["prompt"], tuple(listing["images"]), tuple(listing["image_hashes"]))


def _struct(chain: Chain) -> dict[str, object]:
    return {
        "text": chain.text,
        "token_ids": list(chain.token_ids),
        "logprob": chain.logprob,
        "finish_reason": chain.finish_reason,
    }
