"""Log-probabilities of chains, with each image, trunk and stem put through the model once.

Exact: what comes out is what one row per chain would give, to rounding. For the Qwen2-VL and
Qwen2.5-VL families, whose positions (M-RoPE) go on from the images in the same way.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from raypipe.errors import ConfigError
from raypipe.training import attention
from raypipe.training.attention import Layout
from raypipe.training.trees import Tree

MODEL_TYPES = ("qwen2_vl", "qwen2_5_vl")
LOGITS_AT_ONCE = 1 << 27
"""Logits held at once in float32 (512 MiB): beyond it they are computed again when needed."""


@dataclass(frozen=True)
class Batch:
    """A pack as tensors. S tokens in a row, C chains, E examples of K chains each."""

    token_ids: Tensor  # (S,)
    positions: Tensor  # (3, 1, S)
    layout: Layout
    source: Tensor  # (scored,): the token from which each token of a chain is predicted
    target: Tensor  # (scored,)
    chain: Tensor  # (scored,): the chain that it belongs to
    pixel_values: Tensor | None  # (patches, patch width)
    grids: Tensor | None  # (images, 3)
    examples: Tensor  # (E, K)
    weights: Tensor  # (E,)
    reference: Tensor  # (C,)

    @property
    def num_chains(self) -> int:
        return len(self.reference)


class Collator:
    """Turns a pack into tensors on the CPU: decodes and preprocesses images, lays out the row.

    Args:
        images: encoded images of every listing.
        rope_index: the model's own ``get_rope_index``.
    """

    def __init__(
        self, processor: Any, images: Mapping[str, Sequence[bytes]], rope_index: Any
    ) -> None:
        self._image_processor = processor.image_processor
        self._image_token = processor.image_token_id
        self._images = images
        self._rope_index = rope_index

    def __call__(self, pack: Sequence[Tree]) -> Batch | None:
        """None for an empty pack."""
        if not pack:
            return None
        pixels, grids = self._preprocessed(pack)
        trunk_positions = self._trunk_positions(pack, grids)
        stems = [(index, s.token_ids) for index, tree in enumerate(pack) for s in tree.stems]
        chains = _chains(pack)
        after_trunk = [int(positions[0, -1]) + 1 for positions in trunk_positions]
        after_stem = [after_trunk[tree] + len(stem) for tree, stem in stems]
        positions = [
            *trunk_positions,
            *(_text(after_trunk[tree], len(stem)) for tree, stem in stems),
            *(_text(after_stem[stem], len(ids) - 1) for stem, ids, _ in chains),
        ]
        tokens = [tree.trunk for tree in pack] + [stem for _, stem in stems]
        lengths = (
            [len(tree.trunk) for tree in pack],
            [len(stem) for _, stem in stems],
            [len(ids) - 1 for _, ids, _ in chains],
        )
        stem_ends = np.cumsum([len(one) for one in tokens])[len(pack) :] - 1
        source, target, chain = _scored(chains, stem_ends)
        row = np.concatenate([*tokens, *(ids[:-1] for _, ids, _ in chains)])
        return Batch(
            token_ids=torch.from_numpy(row.astype(np.int64)),
            positions=torch.cat(positions, dim=1)[:, None],
            layout=Layout(lengths, ([tree for tree, _ in stems], [stem for stem, _, _ in chains])),
            source=source,
            target=target,
            chain=chain,
            pixel_values=pixels,
            grids=grids,
            examples=_examples(pack),
            weights=torch.tensor([weight for tree in pack for weight in tree.weights]),
            reference=torch.tensor([reference for _, _, reference in chains]),
        )

    def _preprocessed(self, pack: Sequence[Tree]) -> tuple[Tensor | None, Tensor | None]:
        from PIL import Image

        encoded = [content for tree in pack for content in self._images[tree.listing_id]]
        if not encoded:
            return None, None
        decoded = [Image.open(io.BytesIO(content)).convert("RGB") for content in encoded]
        features = self._image_processor(images=decoded, return_tensors="pt")
        return features["pixel_values"], features["image_grid_thw"]

    def _trunk_positions(self, pack: Sequence[Tree], grids: Tensor | None) -> list[Tensor]:
        """(3, tokens) of each trunk, by the model's own rule."""
        positions, first = [], 0
        for tree in pack:
            last = first + len(self._images[tree.listing_id])
            token_ids = torch.from_numpy(tree.trunk.astype(np.int64))[None]
            own = grids[first:last] if grids is not None and last > first else None
            found, _ = self._rope_index(
                token_ids,
                mm_token_type_ids=(token_ids == self._image_token).int(),
                image_grid_thw=own,
            )
            positions.append(found[:, 0])
            first = last
        return positions


_ChainRow = tuple[int, np.ndarray, float]


def _chains(pack: Sequence[Tree]) -> list[_ChainRow]:
    """(stem among all stems of the pack, tokens, reference) of every chain."""
    rows, first = [], 0
    for tree in pack:
        rows += [(first + c.stem, c.token_ids, c.reference) for c in tree.chains]
        first += len(tree.stems)
    return rows


def _text(first: int, length: int) -> Tensor:
    return torch.arange(first, first + length).expand(3, -1)


def _scored(chains: list[_ChainRow], stem_ends: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Where every token of every chain is predicted: at its stem's end, then within the chain."""
    sources, first = [], int(stem_ends[-1]) + 1
    for stem, ids, _ in chains:
        sources.append(np.concatenate([[stem_ends[stem]], np.arange(first, first + len(ids) - 1)]))
        first += len(ids) - 1
    owners = [np.full(len(ids), index) for index, (_, ids, _) in enumerate(chains)]
    targets = np.concatenate([ids for _, ids, _ in chains]).astype(np.int64)
    return (
        torch.from_numpy(np.concatenate(sources)),
        torch.from_numpy(targets),
        torch.from_numpy(np.concatenate(owners)),
    )


def _examples(pack: Sequence[Tree]) -> Tensor:
    rows, first = [], 0
    for tree in pack:
        rows += [[first + index for index in example] for example in tree.examples]
        first += len(tree.chains)
    return torch.tensor(rows)


def tokens_per_image(processor: Any) -> int:
    """Visual tokens, after merging, of an image at the size that the processor is set to."""
    from PIL import Image

    images = processor.image_processor
    side = round(images.size["shortest_edge"] ** 0.5)
    features = images(images=[Image.new("RGB", (side, side))], return_tensors="pt")
    return int(features["image_grid_thw"].prod()) // int(images.merge_size) ** 2


def check_family(config: Any) -> None:
    """Refuse a model that this module does not know.

    Raises:
        ConfigError: another family than :data:`MODEL_TYPES`, or sliding windows.
    """
    instead = "set training.step=stock"
    if config.model_type not in MODEL_TYPES:
        known = ", ".join(MODEL_TYPES)
        raise ConfigError(
            f"training.step=shared_prefix knows {known}, not '{config.model_type}'; {instead}"
        )
    if set(config.get_text_config().layer_types) != {"full_attention"}:
        raise ConfigError(f"training.step=shared_prefix knows no sliding windows; {instead}")


def prepare(model: Any, *, checkpointing: bool) -> None:
    """Make a model attend along trees; its vision tower stays as it is.

    Args:
        checkpointing: compute activations again instead of keeping them.

    Raises:
        ConfigError: a model of another family, or with sliding windows.
    """
    check_family(model.config)
    attention.register()
    language = model.model.language_model
    language.set_attn_implementation(attention.NAME)
    if checkpointing:
        language.gradient_checkpointing_enable({"use_reentrant": False})


def visual_features(model: Any, batch: Batch, device: Any) -> Tensor | None:
    """(visual tokens, width): each image once, and nothing kept for a backward pass."""
    if batch.pixel_values is None or batch.grids is None:
        return None
    with torch.no_grad():
        seen = model.model.get_image_features(
            batch.pixel_values.to(device), batch.grids.to(device), return_dict=True
        )
    return torch.cat(seen.pooler_output)


def chain_logprobs(model: Any, batch: Batch) -> Tensor:
    """Log-probability (nats) of every chain of a pack, (C,), in float32.

    Args:
        model: the conditional-generation model itself, out of its PEFT wrapper, after
            :func:`prepare`.
    """
    device = model.lm_head.weight.device
    features = visual_features(model, batch, device)
    token_ids = batch.token_ids.to(device)
    embedded = model.get_input_embeddings()(token_ids)
    if features is not None:
        images = token_ids == model.config.image_token_id
        embedded = embedded.masked_scatter(images[:, None], features.to(embedded.dtype))
    hidden = model.model.language_model(
        inputs_embeds=embedded[None],
        position_ids=batch.positions.to(device),
        attention_mask={"full_attention": None},
        use_cache=False,
        tree=batch.layout.to(device),
    ).last_hidden_state[0]
    scored = hidden.index_select(0, batch.source.to(device))
    logprobs = _token_logprobs(model.lm_head, scored, batch.target.to(device))
    totals = torch.zeros(batch.num_chains, dtype=torch.float32, device=device)
    return totals.index_add(0, batch.chain.to(device), logprobs)


def _token_logprobs(head: Any, hidden: Tensor, target: Tensor) -> Tensor:
    """(scored,) log-probabilities; the logits of a large vocabulary are never all there at once."""

    def scored(states: Tensor, wanted: Tensor) -> Tensor:
        return -cross_entropy(head(states).float(), wanted, reduction="none")

    at_once = max(1, LOGITS_AT_ONCE // head.weight.shape[0])
    if len(target) <= at_once:
        return scored(hidden, target)
    parts = zip(torch.split(hidden, at_once), torch.split(target, at_once), strict=True)
    return torch.cat([checkpoint(scored, *part, use_reentrant=False) for part in parts])
