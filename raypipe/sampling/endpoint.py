"""Greedy chains from an OpenAI-compatible server: an upper anchor, or an engine run by others.

Queries go out as the engine gets them: the same system prompt, the same question, the same pixels.
Listings that are answered are written while others are asked, so that a killed call pays for
nothing twice; what could not be asked is asked again by the next call.
"""

import asyncio
import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from raypipe.attributes.prompts import TEMPLATE_VERSION, messages
from raypipe.config import Config
from raypipe.runtime import stream
from raypipe.runtime.openai_client import ChatServer, NoReply, with_images
from raypipe.runtime.progress import reported
from raypipe.sampling.chains import AnsweredQuery, Chain, chains_table
from raypipe.sampling.engine import Failure
from raypipe.schemas import CHAINS, LISTINGS, QUARANTINE
from raypipe.store.artifacts import Artifact, Attempt, Run, get_or_commit
from raypipe.store.data_files import DataFile
from raypipe.store.manifest import Commit, versions
from raypipe.store.paths import Paths
from raypipe.store.quarantine import ENDPOINT_ERROR, quarantine_row

if TYPE_CHECKING:
    from openai import AsyncOpenAI

SPLITS = ("anchor", "eval")
COLUMNS = ["listing_id", "vertical", "split", "images", "queries"]
ListingRow = dict[str, Any]


def run(config: Config, run: Run, *, scope: str, catalog: str = "catalog") -> Commit:
    """Commit ``<scope>/chains``: greedy chains of eval and anchor from ``evals.endpoint``.

    A chain has no token ids and a log-probability of NaN: servers need not tell them. A refusal or
    an empty answer is a chain without an answer; a listing with a request that failed for good is
    refused (``endpoint_error``). The counts add up what the server says of tokens.

    Args:
        scope: where the chains are committed.
        catalog: scope of the listings.

    Raises:
        ConfigError: the server does not accept the key.
        QuarantineLimitError: more listings were refused than ``catalog.max_quarantined``.
    """
    listings = run.artifact(Paths(catalog).listings, LISTINGS)
    fingerprint = recipe(config) | {"upstream.listings": listings.require_commit().digest}

    def make(attempt: Attempt) -> Commit:
        return _ask_all(config, listings, attempt)

    return get_or_commit(run.artifact(Paths(scope).chains, CHAINS), fingerprint, make)


def recipe(config: Config) -> dict[str, Any]:
    """What an endpoint's chains depend on beside the listings, for fingerprints."""
    evals = config.evals
    name = f"{evals.endpoint}\0{evals.endpoint_model}"
    return {
        **config.fingerprint_keys("endpoint"),
        "template": TEMPLATE_VERSION,
        "policy_id": hashlib.sha256(name.encode()).hexdigest()[:16],
        **versions("raypipe"),
    }


def _ask_all(config: Config, listings: Artifact, attempt: Attempt) -> Commit:
    kept = [file for file in attempt.salvage() if file.entry.kind == "data"]
    done = pa.concat_arrays([stream.NO_IDS, *(file.ids for file in kept)])
    wanted = _ids(listings)
    shelf = _Shelf(attempt, config, len(wanted), kept)
    server = _Server(config)
    try:
        with reported(lambda: f"{len(done) + shelf.taken:,} of {len(wanted):,} listings"):
            asyncio.run(_work(server, _rows(listings, done), shelf, config.evals.concurrency))
    finally:
        shelf.write()
    shelf.check()
    counts = {"listings": len(wanted), "salvaged": len(done), **shelf.counts, **server.counts}
    return attempt.commit(expected=wanted, written=shelf.written, counts=counts)


async def _work(
    server: "_Server", rows: Iterator[ListingRow], shelf: "_Shelf", num_workers: int
) -> None:
    async def answer() -> None:
        for listing in rows:  # shared: each worker takes the next one
            made = await server.answer(client, listing)
            shelf.add(listing, made)

    async with server.client() as client:
        workers = [asyncio.ensure_future(answer()) for _ in range(num_workers)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()


class _Server:
    """Asks a listing's queries, and counts tokens."""

    def __init__(self, config: Config) -> None:
        self._max_tokens = config.sampling.max_tokens
        self._answer_format = config.model.answer_format
        self._chat = ChatServer(config.evals)
        self.counts = Counter(tokens=0, prompt_tokens=0)

    def client(self) -> "AsyncOpenAI":
        return self._chat.client()

    async def answer(self, client: "AsyncOpenAI", listing: ListingRow) -> list[Chain] | Failure:
        """A chain per query of a listing, or why one of them could not be had."""
        images = listing["images"]
        made = await asyncio.gather(
            *(
                self._chain(client, self._turns(query["prompt"], images))
                for query in listing["queries"]
            )
        )
        chains = [chain for chain in made if isinstance(chain, Chain)]
        failures = [failure for failure in made if isinstance(failure, Failure)]
        return failures[0] if failures else chains

    def _turns(self, prompt: str, images: Sequence[bytes]) -> list[dict[str, Any]]:
        return with_images(messages(prompt, len(images), self._answer_format), images)

    async def _chain(self, client: "AsyncOpenAI", turns: list[Any]) -> Chain | Failure:
        reply = await self._chat.ask(client, turns, max_tokens=self._max_tokens)
        if isinstance(reply, NoReply):
            return Failure(reply.detail)
        self.counts["tokens"] += reply.answer_tokens or 0
        self.counts["prompt_tokens"] += reply.prompt_tokens or 0
        return Chain(reply.text, (), math.nan, reply.finish_reason)


class _Shelf:
    """Listings that are answered, on their way to disk, so many to a file."""

    def __init__(
        self, attempt: Attempt, config: Config, total: int, written: Sequence[DataFile]
    ) -> None:
        self.written = list(written)
        self._num_refused = stream.num_refused(written)
        self.counts = Counter(queries=0, chains=0)
        self.taken = 0
        self._attempt = attempt
        self._total = total
        self._per_file = config.sampling.listings_per_call
        self._max_refused = config.catalog.max_quarantined
        self._make_rows = partial(chains_table, policy_id=recipe(config)["policy_id"])
        self._answered: list[tuple[ListingRow, list[AnsweredQuery]]] = []
        self._refused: list[dict[str, object]] = []

    def add(self, listing: ListingRow, made: list[Chain] | Failure) -> None:
        self.taken += 1
        if isinstance(made, Failure):
            self._refused.append(
                quarantine_row(listing["listing_id"], "sampling", ENDPOINT_ERROR, made.detail)
            )
        else:
            without_images = {name: listing[name] for name in COLUMNS if name != "images"}
            self._answered.append((without_images, [AnsweredQuery(chain, ()) for chain in made]))
            self.counts.update(queries=len(made), chains=len(made))
        if len(self._answered) + len(self._refused) >= self._per_file:
            self.write()
            self.check()

    def write(self) -> None:
        """Write what has come since the last time."""
        answered, refused = self._answered, self._refused
        self._answered, self._refused = [], []
        if answered:
            listings, chains = zip(*answered, strict=True)
            self.written.append(self._attempt.store(self._make_rows(listings, chains)))
        if refused:
            rows = QUARANTINE.from_rows(refused)
            self.written.append(self._attempt.store(rows, "quarantine"))
            self._num_refused += len(refused)

    def check(self) -> None:
        """Stop when more is refused than may be."""
        stream.check_share(
            self._attempt, self.written, self._num_refused, self._total, self._max_refused
        )


def _ids(listings: Artifact) -> pa.Array:
    ids = [stream.NO_IDS]
    for table in listings.read_files(["listing_id", "split"]):
        ids += _verified(table).column("listing_id").chunks
    return pa.concat_arrays(ids)


def _rows(listings: Artifact, done: pa.Array) -> Iterator[ListingRow]:
    for table in listings.read_files(COLUMNS):
        verified = _verified(table)
        left = verified.filter(pc.invert(pc.is_in(verified.column("listing_id"), done)))
        for batch in left.to_batches(max_chunksize=1):
            yield from batch.to_pylist()


def _verified(table: pa.Table) -> pa.Table:
    return table.filter(pc.is_in(table.column("split"), pa.array(SPLITS)))
