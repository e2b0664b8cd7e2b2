"""A listing as a tree of tokens, in which whatever its examples share stands once.

The trunk is what all prompts of the listing begin with: system prompt, images, and the words
before the first difference. A stem is the rest of one query's prompt. A chain is an answer to it.
Trunk, stem and chain together are exactly the tokens that TRL trains on, chat template included.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypipe.errors import InputError
from raypipe.training.examples import Examples, Row

Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class Stem:
    """What a query's prompt adds to the trunk."""

    attribute: str
    token_ids: Tokens


@dataclass(frozen=True)
class ChainNode:
    """An answer: its stem, its tokens, and their log-probability under the reference policy."""

    stem: int
    token_ids: Tokens
    reference: float = float("nan")
    """In nats; NaN until the reference is computed."""


@dataclass(frozen=True)
class Tree:
    """One listing's examples. An example names its chains: (chosen, rejected), or a target."""

    listing_id: str
    trunk: Tokens
    stems: tuple[Stem, ...]
    chains: tuple[ChainNode, ...]
    examples: tuple[tuple[int, ...], ...]
    weights: tuple[float, ...]
    """Factor of each pair's loss; the mean over a training is 1."""

    @property
    def num_tokens(self) -> int:
        """Tokens that go through the model; the last one of a chain predicts nothing."""
        stems = sum(len(stem.token_ids) for stem in self.stems)
        return len(self.trunk) + stems + sum(len(chain.token_ids) - 1 for chain in self.chains)

    @property
    def num_scored(self) -> int:
        """Tokens of the examples' chains; a chain in two examples counts twice."""
        return sum(
            len(self.chains[index].token_ids) for example in self.examples for index in example
        )

    @property
    def queries(self) -> list[str]:
        """The query of each example, as listing/attribute."""
        stems = [self.stems[self.chains[example[0]].stem] for example in self.examples]
        return [f"{self.listing_id}/{stem.attribute}" for stem in stems]

    def with_examples(self, indices: Sequence[int]) -> "Tree":
        """The tree with only these examples, and the chains and stems that they need."""
        kept = [self.examples[index] for index in indices]
        chains = sorted({index for example in kept for index in example})
        stems = sorted({self.chains[index].stem for index in chains})
        chain_at = {old: new for new, old in enumerate(chains)}
        stem_at = {old: new for new, old in enumerate(stems)}
        return Tree(
            self.listing_id,
            self.trunk,
            tuple(self.stems[stem] for stem in stems),
            tuple(
                replace(self.chains[index], stem=stem_at[self.chains[index].stem])
                for index in chains
            ),
            tuple(tuple(chain_at[index] for index in example) for example in kept),
            tuple(self.weights[index] for index in indices),
        )

    def with_reference(self, logprobs: Sequence[float]) -> "Tree":
        """The tree with the reference's log-probability of every chain, in their order."""
        chains = zip(self.chains, logprobs, strict=True)
        return replace(self, chains=tuple(replace(c, reference=value) for c, value in chains))


def build_trees(examples: Examples, processor: Any, tokens_per_image: int) -> list[Tree]:
    """One tree per listing, in the order of their ids; equal chains of a query are one.

    Args:
        examples: a row without a ``weight`` counts 1.
        processor: of the Qwen2-VL family; its chat template is applied as TRL applies it.
        tokens_per_image: visual tokens of an image after merging; every image has as many.

    Raises:
        InputError: an example without a token to learn.
    """
    by_listing: dict[str, list[Row]] = {}
    for row in examples.rows:
        by_listing.setdefault(row["listing_id"], []).append(row)
    return [
        _tree(
            listing, by_listing[listing], len(examples.images[listing]), processor, tokens_per_image
        )
        for listing in sorted(by_listing)
    ]


def _tree(
    listing_id: str, rows: list[Row], num_images: int, processor: Any, tokens_per_image: int
) -> Tree:
    prompts: dict[str, int] = {}
    attributes: list[str] = []
    answers: dict[tuple[int, str], int] = {}
    examples = []
    for row in rows:
        prompt, *completions = _rendered(row, num_images, processor)
        stem = prompts.setdefault(prompt, len(prompts))
        attributes += [row["attribute"]] * (len(prompts) - len(attributes))
        examples.append(
            tuple(answers.setdefault((stem, text), len(answers)) for text in completions)
        )
    image = processor.image_token
    expanded = [text.replace(image, image * tokens_per_image) for text in prompts]
    prompt_ids = _tokenized(expanded, processor.tokenizer)
    trunk = _common(prompt_ids)
    chains = _tokenized([text for _, text in answers], processor.tokenizer)
    if any(len(token_ids) == 0 for token_ids in chains):
        raise InputError(f"{listing_id}: an example has an empty completion")
    return Tree(
        listing_id,
        prompt_ids[0][:trunk],
        tuple(
            Stem(attribute, token_ids[trunk:])
            for attribute, token_ids in zip(attributes, prompt_ids, strict=True)
        ),
        tuple(ChainNode(stem, ids) for (stem, _), ids in zip(answers, chains, strict=True)),
        tuple(examples),
        tuple(row.get("weight", 1.0) for row in rows),
    )


def _rendered(row: Row, num_images: int, processor: Any) -> list[str]:
    """Prompt and completions as text, by the functions that TRL's own collators use."""
    from trl.data_utils import apply_chat_template, prepare_multimodal_messages

    prompt = prepare_multimodal_messages(row["prompt"], images=["image"] * num_images)
    parts = [name for name in ("chosen", "rejected", "completion") if name in row]
    turns: dict[str, Any] = {name: prepare_multimodal_messages(row[name]) for name in parts}
    text = apply_chat_template({"prompt": prompt} | turns, processor)
    return [text["prompt"], *(text[name] for name in parts)]


def _tokenized(texts: list[str], tokenizer: Any) -> list[Tokens]:
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [np.asarray(one, np.int32) for one in ids]


def _common(prompts: list[Tokens]) -> int:
    """How many tokens all prompts begin with; the last token of each stays its own."""
    size = min(len(prompt) for prompt in prompts) - 1
    for other in prompts[1:]:
        differing = np.flatnonzero(prompts[0][:size] != other[:size])
        size = int(differing[0]) if len(differing) else size
    return size
