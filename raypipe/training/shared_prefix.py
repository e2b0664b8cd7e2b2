"""Log-probabilities of chains, computing each image, trunk and stem once.

Exact: equal to one row per chain, to rounding. For the families of
:data:`raypipe.models.families.FAMILIES`.
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
from raypipe.models.families import FAMILIES, QwenVLFamily
from raypipe.training import attention, vision
from raypipe.training.attention import Layout
from raypipe.training.trees import Tree

LOGITS_AT_ONCE = 1 << 27
"""Most float32 logits in memory (512 MiB); beyond it they are recomputed in the backward pass."""


@dataclass(frozen=True)
class Batch:
    """A pack as tensors: S tokens in one row, C chains, E examples of K chains each."""

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
    """Turns a pack into tensors on the CPU: decodes and preprocesses images, concatenates tokens.

    Args:
        images: encoded images of every listing, unless each pack comes with its own.
        rope_index: the model's own ``get_rope_index``.
    """

    def __init__(
        self, processor: Any, images: Mapping[str, Sequence[bytes]], rope_index: Any
    ) -> None:
        self._image_processor = processor.image_processor
        self._image_token = processor.image_token_id
        self._images = images
        self._rope_index = rope_index

    def __call__(
        self, pack: Sequence[Tree], images: Mapping[str, Sequence[bytes]] | None = None
    ) -> Batch | None:
        """None for an empty pack.

        Args:
            images: of the pack's listings; None takes those of the collator.
        """
        if not pack:
            return None
        if images is None:
            images = self._images
        encoded = [images[tree.listing_id] for tree in pack]
        pixels, grids = self._preprocessed(encoded)
        trunk_positions = self._trunk_positions(pack, list(map(len, encoded)), grids)
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
            layout=Layout(
                lengths,
                ([tree for tree, _ in stems], [stem for stem, _, _ in chains]),
                attention.LENGTH_MULTIPLE if torch.cuda.is_available() else 1,
            ),
            source=source,
            target=target,
            chain=chain,
            pixel_values=pixels,
            grids=grids,
            examples=_examples(pack),
            weights=_exact([weight for tree in pack for weight in tree.weights]),
            reference=_exact([reference for _, _, reference in chains]),
        )

    def _preprocessed(
        self, images: Sequence[Sequence[bytes]]
    ) -> tuple[Tensor | None, Tensor | None]:
        from PIL import Image

        encoded = [content for listing in images for content in listing]
        if not encoded:
            return None, None
        decoded = [Image.open(io.BytesIO(content)).convert("RGB") for content in encoded]
        features = self._image_processor(images=decoded, return_tensors="pt")
        return features["pixel_values"], features["image_grid_thw"]

    def _trunk_positions(
        self, pack: Sequence[Tree], num_images: Sequence[int], grids: Tensor | None
    ) -> list[Tensor]:
        """(3, tokens) of each trunk, by the model's own rule."""
        positions, first = [], 0
        for tree, number in zip(pack, num_images, strict=True):
            last = first + number
            token_ids = torch.from_numpy(tree.trunk.astype(np.int64))[None]
            own = grids[first:last] if grids is not None and last > first else None
            indices, _ = self._rope_index(
                token_ids,
                mm_token_type_ids=(token_ids == self._image_token).int(),
                image_grid_thw=own,
            )
            positions.append(indices[:, 0])
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


def _exact(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _text(first: int, length: int) -> Tensor:
    return torch.arange(first, first + length).expand(3, -1)


def _scored(chains: list[_ChainRow], stem_ends: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Source, target and chain of every scored token: the first is predicted at its stem's end."""
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


def check_family(config: Any) -> QwenVLFamily:
    """The family of a model that this module can train.

    Raises:
        ConfigError: another family than those of ``FAMILIES``, or sliding windows.
    """
    instead = "set training.step=stock"
    if config.model_type not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ConfigError(
            f"training.step=shared_prefix knows {known}, not '{config.model_type}'; {instead}"
        )
    layers = getattr(config.get_text_config(), "layer_types", None) or ["full_attention"]
    if set(layers) != {"full_attention"}:
        raise ConfigError(f"training.step=shared_prefix knows no sliding windows; {instead}")
    return FAMILIES[config.model_type]


def prepare_model(model: Any, *, checkpointing: bool) -> None:
    """Make a model attend along trees, and its vision tower to all windows at once.

    Args:
        checkpointing: recompute activations in the backward pass.

    Raises:
        ConfigError: a model of another family, or with sliding windows.
    """
    family = check_family(model.config)
    attention.register()
    language = family.language_model_of(model)
    language.set_attn_implementation(attention.NAME)
    vision.register()
    model.model.visual.config._attn_implementation = vision.NAME
    if checkpointing:
        language.gradient_checkpointing_enable({"use_reentrant": False})


@dataclass(frozen=True)
class VisualFeatures:
    """What a pack's images are to the language model, each (visual tokens, width)."""

    embedded: Tensor  # in place of the image tokens
    deepstack: list[Tensor]  # of Qwen3-VL: added to what its first layers make of them


def visual_features(model: Any, batch: Batch, device: Any) -> VisualFeatures | None:
    """The features of all images of a pack, without gradients; None where it has none."""
    if batch.pixel_values is None or batch.grids is None:
        return None
    with torch.no_grad():
        features = model.model.get_image_features(
            batch.pixel_values.to(device), batch.grids.to(device), return_dict=True
        )
    deepstack = features.get("deepstack_features") or ()
    return VisualFeatures(
        torch.cat(features.pooler_output), [torch.cat(each) for each in deepstack]
    )


def chain_logprobs(model: Any, batch: Batch) -> Tensor:
    """Log-probability (nats) of every chain of a pack, (C,), in float32 or the model's float64.

    Args:
        model: the conditional-generation model itself, out of its PEFT wrapper, after
            :func:`prepare_model`.
    """
    device = model.lm_head.weight.device
    embedded, visual = _embedded(model, batch, device)
    language = FAMILIES[model.config.model_type].language_model_of(model)
    hidden = language(
        inputs_embeds=embedded[None],
        position_ids=batch.positions.to(device),
        use_cache=False,
        tree=batch.layout.to(device),
        **visual,
    ).last_hidden_state[0]
    scored = hidden.index_select(0, batch.source.to(device))
    logprobs = _token_logprobs(model.lm_head, scored, batch.target.to(device))
    return logprobs.new_zeros(batch.num_chains).index_add(0, batch.chain.to(device), logprobs)


def _embedded(model: Any, batch: Batch, device: Any) -> tuple[Tensor, dict[str, Any]]:
    """(S, width) with images in their places, and what DeepStack adds within the language model."""
    token_ids = batch.token_ids.to(device)
    embedded = model.get_input_embeddings()(token_ids)
    features = visual_features(model, batch, device)
    if features is None:
        return embedded, {}
    images = token_ids == model.config.image_token_id
    embedded = embedded.masked_scatter(images[:, None], features.embedded.to(embedded.dtype))
    if not features.deepstack:
        return embedded, {}
    return embedded, {
        "visual_pos_masks": images[None],
        "deepstack_visual_embeds": features.deepstack,
    }


def _token_logprobs(head: Any, hidden: Tensor, target: Tensor) -> Tensor:
    """(scored,) log-probabilities; all logits of a large vocabulary never exist at once."""

    def scored(states: Tensor, targets: Tensor) -> Tensor:
        logits = head(states)
        wide = torch.promote_types(logits.dtype, torch.float32)
        return -cross_entropy(logits.to(wide), targets, reduction="none")

    at_once = max(1, LOGITS_AT_ONCE // head.weight.shape[0])
    if len(target) <= at_once:
        return scored(hidden, target)
    parts = zip(torch.split(hidden, at_once), torch.split(target, at_once), strict=True)
    return torch.cat([checkpoint(scored, *part, use_reentrant=False) for part in parts])
