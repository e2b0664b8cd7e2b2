"""Chains per second: raypipe's sampling stage against three other ways to the same chains.

    python benchmarks/sampling.py                      two CPU cores, the embedded nano model
    python benchmarks/sampling.py --arm llm            one arm alone
    python benchmarks/sampling.py sampling.calls_in_flight=2    any key of the configuration

The arms, on equal prompts, images, seeds, engine arguments and sampling parameters (each chain is
``--max_tokens`` long, whatever it says):

    raypipe       ``raypipe.sampling.stage.run`` on committed listings: Ray Data, actor, Parquet
    llm           ``LLM.generate`` of all prompts at once, n=7, prompts ready before the clock runs
    async_llm     ``AsyncLLM``, a coroutine for each prompt, n=7; the better of the two is "vllm"
    ray_data_llm  ``ray.data.llm``'s engine stage, a row for each chain
    unshared      ``LLM.generate`` of a request for each chain, nothing kept between requests

The engine computes with one thread in a process of its own (``ENGINE``), so that of two cores one
is the engine's and one everybody else's, as on a machine where the engine has a GPU.

An arm's seconds run from the first prompt that its engine is shown to the last chain, with engine,
actor and plan up and the engine warm; what Ray does between calls is inside. Every measurement is a
process of its own; arms take turns, there and back again; medians are compared. Ratios are ours
over theirs. No process counts whose greedy chains differ from the first one's.

A separate pass of our arm asks the engine's own statistics. ``prefill_overhead`` is the prompt
tokens that it computed over the fewest possible with the engine's cache, which keeps whole blocks
and computes the rest of a prompt for each of its chains; ``prefill_overhead_in_tokens`` is over
every node of the tree of all prompts once, token by token, which no engine with blocks reaches.
``encodes_per_image`` is images through the vision tower over distinct images. ``noise`` compares
two halves of the runs of "vllm". The last line is JSON.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sampling_arms import ARMS, ArmMeasurement, Workload, requests_of, text, tokenizer

from raypipe import config as configuration
from raypipe.attributes.prompts import Question, user_prompt
from raypipe.catalog.images import Picture, squash
from raypipe.config import Config
from raypipe.embedded.catalog import listing
from raypipe.embedded.schema import VIEWS
from raypipe.models.policies import model_path
from raypipe.runtime.cluster import QUIET_ENVIRONMENT

ATTRIBUTES = 5
WARM_LISTINGS = 2
PROCESS_LIMIT_S = 1800
RAW = ("llm", "async_llm")
ENGINE = (
    "sampling.engine_in_actor=false",
    'sampling.environment.OMP_NUM_THREADS="1"',
)
COUNTING = (
    "sampling.engine.disable_log_stats=false",
    "sampling.engine.enable_logging_iteration_details=true",
)
SIZES = ("listings", "images", "max_tokens")
Figures = dict[str, Any]


def make_work(config: Config, num_listings: int) -> Workload:
    """Rendered listings of five attributes and ``catalog.max_images`` images each."""
    rows = _rows(config)
    warm = [next(rows) for _ in range(WARM_LISTINGS)]
    return Workload(config, [next(rows) for _ in range(num_listings)], warm)


def _rows(config: Config) -> Iterator[dict[str, Any]]:
    """LISTINGS rows of the verticals of the embedded catalog that have attributes enough."""
    index = 0
    while True:
        drawn = listing(1, "pool", index)
        index += 1
        vertical, entries = drawn.product.vertical, drawn.entries[:ATTRIBUTES]
        if len(entries) < ATTRIBUTES:
            continue
        seen = replace(drawn, views=VIEWS[vertical][: config.catalog.max_images])
        pictures = [_picture(content, config) for content in seen.images()]
        queries = [
            {
                "attribute": entry.name,
                "prompt": user_prompt(
                    Question(vertical, entry.name, entry.description, entry.values)
                ),
                "options": [*entry.values],
                "seller_value": None,
            }
            for entry in entries
        ]
        yield {
            "listing_id": drawn.listing_id,
            "vertical": vertical,
            "split": "pool",
            "group_id": None,
            "images": [picture.encoded for picture in pictures],
            "image_hashes": [picture.pixel_hash for picture in pictures],
            "queries": queries,
        }


def _picture(content: bytes, config: Config) -> Picture:
    picture = squash(content, config.catalog.image_size, config.catalog.max_image_pixels)
    assert isinstance(picture, Picture), picture
    return picture


def prompt_tokens(work: Workload, rows: list[dict[str, Any]]) -> list[list[Any]]:
    """The tokens of every prompt, those of an image named by the image."""
    chat = tokenizer(model_path(work.config.model))
    image_token = chat.convert_tokens_to_ids("<|image_pad|>")
    per_image = (work.config.catalog.image_size // 28) ** 2
    prompts = []
    for _, request in requests_of(work.config, rows):
        hashes = iter(request.prompt.image_hashes)
        tokens: list[Any] = []
        for token in chat.encode(text(work.config, request.prompt)):
            if token == image_token:
                name = next(hashes)
                tokens += [(name, index) for index in range(per_image)]
            else:
                tokens.append(token)
        prompts.append(tokens)
    return prompts


def grown(tree: dict[Any, Any], prompts: list[list[Any]]) -> int:
    """Put prompts into a tree of tokens; how many nodes it gained."""
    gained = 0
    for prompt in prompts:
        node = tree
        for token in prompt:
            if token not in node:
                node[token] = {}
                gained += 1
            node = node[token]
    return gained


def fewest_in_blocks(work: Workload, warm: list[list[Any]], prompts: list[list[Any]]) -> int:
    """The least that an engine can compute which keeps whole blocks of tokens: every block once,
    and of every chain's prompt the tokens after its last kept block, one at least."""
    size, chains = work.config.sampling.engine["block_size"], work.config.sampling.num_chains
    kept: set[tuple[Any, ...]] = set()
    computed = 0
    for number, prompt in enumerate([*warm, *prompts]):
        whole = (len(prompt) - 1) // size * size
        blocks = {tuple(prompt[:end]) for end in range(size, whole + 1, size)} - kept
        kept |= blocks
        if number >= len(warm):
            computed += size * len(blocks) + chains * (len(prompt) - whole)
    return computed


def counters(work: Workload, counted: dict[str, int]) -> dict[str, float]:
    """What our arm's engine computed, over the least that it could have."""
    tree: dict[Any, Any] = {}
    warm = prompt_tokens(work, work.warm)
    grown(tree, warm)
    prompts = prompt_tokens(work, work.listings)
    asked_for = sum(map(len, prompts)) * work.config.sampling.num_chains
    assert counted["prompt"] == asked_for, f"{asked_for} prompt tokens, counted {counted}"
    images = {name for row in work.listings for name in row["image_hashes"]}
    return {
        "prefill_overhead": round(counted["computed"] / fewest_in_blocks(work, warm, prompts), 3),
        "prefill_overhead_in_tokens": round(counted["computed"] / grown(tree, prompts), 3),
        "encodes_per_image": round(counted["encoded"] / len(images), 3),
    }


def figures(name: str, outcome: ArmMeasurement) -> Figures:
    """One measurement as a process tells it to another."""
    return {
        "arm": name,
        "chains_per_s": round(len(outcome.drawn) / outcome.seconds, 3),
        "seconds": round(outcome.seconds, 3),
        "tokens": sum(map(len, outcome.drawn.values())),
        "counted": outcome.counted,
        "greedy": _digest(outcome.greedy),
        "drawn": {name: _digest(chain) for name, chain in sorted(outcome.drawn.items())},
    }


def _digest(tokens: Any) -> str:
    return hashlib.blake2b(json.dumps(tokens).encode(), digest_size=6).hexdigest()


class SamplingBenchmark:
    """Runs arms in processes of their own, and keeps what they tell."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._first: Figures | None = None
        self.work = make_work(load(options), options.listings)
        self.found: dict[str, list[Figures]] = {name: [] for name in ARMS}

    def measure(self, repeats: int) -> None:
        for _ in range(repeats):
            for name in (*ARMS, *reversed(ARMS)):
                self.found[name].append(self.run(name))

    def run(self, name: str, *overrides: str) -> Figures:
        """One arm once. Stops when it made other greedy chains, or fewer tokens, than asked."""
        options = self._options
        sizes = [f"--{key}={getattr(options, key)}" for key in SIZES]
        command = [sys.executable, __file__, f"--arm={name}", *sizes]
        command += [*options.overrides, *overrides]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=PROCESS_LIMIT_S
        )
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")
        made: Figures = json.loads(done.stdout.splitlines()[-1])
        self._first = first = self._first or made
        chains = len(self.work.requests) * self.work.config.sampling.num_chains
        tokens = chains * options.max_tokens
        assert made["tokens"] == tokens, f"{name} made {made['tokens']} tokens, not {tokens}"
        assert made["greedy"] == first["greedy"], f"{name} and {first['arm']} differ greedily"
        same = [first["drawn"].get(key) == chain for key, chain in made["drawn"].items()]
        made["same_chains"] = round(statistics.mean(same), 3)
        print(f"  {name:14s} {made['chains_per_s']:9.2f} chains/s", file=sys.stderr, flush=True)
        return made


def summary(name: str, found: list[Figures]) -> Figures:
    values = [made["chains_per_s"] for made in found]
    return {
        "arm": name,
        "chains_per_s": round(statistics.median(values), 2),
        "values": values,
        "tokens": found[0]["tokens"],
        # Share of chains that are the first process's, token by token: seeds are equal, so what
        # is missing is arithmetic in batches of another shape.
        "same_chains": min(made["same_chains"] for made in found),
    }


def report(options: argparse.Namespace) -> None:
    bench = SamplingBenchmark(options)
    counted = bench.run("raypipe", *COUNTING)["counted"]
    bench.measure(options.repeats)
    arms = {name: summary(name, found) for name, found in bench.found.items()}
    for arm in arms.values():
        print(json.dumps(arm))
    speed = {name: arm["chains_per_s"] for name, arm in arms.items()}
    best = max(RAW, key=lambda name: speed[name])
    rivals = {"vllm": best, "ray_data_llm": "ray_data_llm", "unshared": "unshared"}
    halves = [arms[best]["values"][start::2] for start in (0, 1)]
    first, second = map(statistics.median, halves)
    result = {
        "benchmark": "sampling",
        "ratios": {name: round(speed["raypipe"] / speed[arm], 3) for name, arm in rivals.items()},
        **counters(bench.work, counted),
        "noise": round(abs(first / second - 1), 3),
        "shape": {
            "listings": options.listings,
            "images": options.images,
            "attributes": ATTRIBUTES,
            "chains": bench.work.config.sampling.num_chains,
            "max_tokens": options.max_tokens,
            "image_size": bench.work.config.catalog.image_size,
        },
    }
    print(json.dumps(result))


def load(options: argparse.Namespace) -> Config:
    sizes = [
        f"sampling.max_tokens={options.max_tokens}",
        f"catalog.max_images={options.images}",
        "catalog.image_size=224",
    ]
    return configuration.load(None, [*ENGINE, *sizes, *options.overrides])


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """The options, ``SIZES``, of how much work there is, and overrides of the configuration."""
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--listings", type=int, default=48)
    parser.add_argument("--images", type=int, default=5, help="of a listing, five at most")
    parser.add_argument("--max_tokens", type=int, default=40, help="of a chain, and at least")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_sizes(parser)
    parser.add_argument("--repeats", type=int, default=3, help="of there and back again")
    parser.add_argument("--arm", choices=[*ARMS], help="measure one arm, once")
    options = parser.parse_args()
    if not options.arm:
        report(options)
        return
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    work = make_work(load(options), options.listings)
    print(json.dumps(figures(options.arm, ARMS[options.arm](work))))


if __name__ == "__main__":
    main()
