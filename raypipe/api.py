"""What ``import raypipe`` offers to a notebook or a script: the method's parts, without Ray.

Examples are rows in TRL's conversational form, one a pair or a target, with the ``listing_id`` and
``attribute`` that they are of; images are given beside them, by listing. ``docs/python.md`` shows
every function at work.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from raypipe.attributes import parser, prompts
from raypipe.attributes.parser import Answer
from raypipe.attributes.schema import Attribute, AttributeSchema, load_attribute_schema
from raypipe.attributes.vote import Vote, count_votes, min_votes
from raypipe.catalog.queries import queries_of
from raypipe.config import CatalogConfig
from raypipe.config.models import AnswerFormat
from raypipe.consensus.query_outcome import ConsensusRules, decide_query
from raypipe.errors import InputError
from raypipe.labeling.label_versions import newest_published
from raypipe.store.runs import find_run
from raypipe.summaries import Summary

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL.Image import Image
    from torch import Tensor

    from raypipe.training.shared_prefix import Batch

Row = dict[str, Any]
_TOKENS_PER_PACK = 8192


def load_schema(path: str | Path) -> AttributeSchema:
    """The attribute schema of a YAML or Parquet file.

    ``schema.get(vertical, name)`` is one attribute of it.

    Raises:
        InputError: the first fault, with the file, the entry and the remedy.
        StorageError: the storage is out of reach.
    """
    return load_attribute_schema(str(path))


def load_images(paths: Sequence[str | Path], size: int = 224) -> "list[Image]":
    """Images as a run prepares them: upright RGB, squashed to ``size`` x ``size`` pixels.

    Raises:
        InputError: a file that is missing or is no usable image.
    """
    from PIL import Image

    from raypipe.catalog.images import Refusal, squash

    images: list[Image.Image] = []
    for path in paths:
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"cannot read the image {path}: {error.strerror}") from error
        prepared = squash(content, size, CatalogConfig.model_fields["max_image_pixels"].default)
        if isinstance(prepared, Refusal):
            raise InputError(f"{path} is no usable image: {prepared.reason} ({prepared.detail})")
        images.append(Image.open(io.BytesIO(prepared.encoded)))
    return images


def build_prompts(schema: AttributeSchema, vertical: str) -> dict[str, str]:
    """The question about each attribute of a vertical (paper, Table 3), by the attribute's name.

    Raises:
        InputError: the schema does not have this vertical.
    """
    return {query.attribute: query.prompt for query in queries_of(schema.attributes(vertical), {})}


def build_conversations(
    schema: AttributeSchema,
    vertical: str,
    num_images: int,
    answer_format: AnswerFormat = "reasoning",
) -> dict[str, list[dict[str, Any]]]:
    """The same questions as conversations, each for ``processor.apply_chat_template``."""
    return {
        name: prompts.messages(prompt, num_images, answer_format)
        for name, prompt in build_prompts(schema, vertical).items()
    }


def parse(
    text: str,
    attribute: Attribute,
    *,
    finish_reason: str = "stop",
    answer_format: AnswerFormat = "reasoning",
) -> Answer:
    """The allowed value that a chain answers, or None with the reason.

    Args:
        finish_reason: as the engine gave it; a chain that did not end with "stop" is truncated.
    """
    return parser.parse(text, finish_reason, attribute, answer_format)


def vote(
    texts: Sequence[str],
    attribute: Attribute,
    *,
    num_chains: int | None = None,
    finish_reasons: Sequence[str] | None = None,
    answer_format: AnswerFormat = "reasoning",
) -> Vote:
    """The vote of a query's chains (paper §4): ``consensus``, ``confidence`` and all ``votes``.

    Args:
        num_chains: chains requested, the denominator of the confidence; by default as many as
            there are texts.
        finish_reasons: one for each text; by default every chain ended with "stop".

    Raises:
        InputError: no chains, more than were requested, or not one finish reason for each.
    """
    reasons = _finish_reasons(texts, finish_reasons)
    answers = [
        parser.parse(text, reason, attribute, answer_format)
        for text, reason in zip(texts, reasons, strict=True)
    ]
    return count_votes((answer.value for answer in answers), _requested(texts, num_chains))


def make_pairs(
    texts: Sequence[str],
    attribute: Attribute,
    listing_id: str,
    *,
    threshold: float = 0.5,
    num_chains: int | None = None,
    finish_reasons: Sequence[str] | None = None,
    answer_format: AnswerFormat = "reasoning",
    seed: int = 0,
    round_index: int = 1,
) -> list[Row]:
    """Preference pairs of a query's chains (paper §4.1), as rows of TRL's preference format.

    Every chain that does not answer the consensus is rejected once, against one that does, chosen
    by ``seed``, ``round_index``, listing and attribute as in a run.

    Args:
        threshold: a query whose confidence does not exceed it gives no pairs.

    Returns:
        Rows with ``listing_id``, ``attribute``, ``prompt``, ``chosen`` and ``rejected``.

    Raises:
        InputError: as :func:`vote`, or a threshold outside [0, 1).
    """
    requested = _requested(texts, num_chains)
    try:
        fewest = min_votes(threshold, requested)
    except ValueError as error:
        raise InputError(str(error)) from error
    rules = ConsensusRules(requested, fewest, answer_format, seed, round_index)
    reasons = _finish_reasons(texts, finish_reasons)
    decided = decide_query(texts, reasons, attribute, listing_id, rules)
    return [
        _row(attribute, listing_id, answer_format)
        | {"chosen": _turn(texts[pair.chosen_index]), "rejected": _turn(texts[pair.rejected_index])}
        for pair in decided.pairs
    ]


def make_targets(
    texts: Sequence[str],
    attribute: Attribute,
    listing_id: str,
    *,
    answer_format: AnswerFormat = "reasoning",
) -> list[Row]:
    """Chains as rows of TRL's prompt-completion format.

    Returns:
        Rows with ``listing_id``, ``attribute``, ``prompt`` and ``completion``.
    """
    return [
        _row(attribute, listing_id, answer_format) | {"completion": _turn(text)} for text in texts
    ]


def chain_logprobs(
    model: Any,
    processor: Any,
    rows: Sequence[Row],
    images: "Mapping[str, Sequence[Image | bytes]]",
) -> "Tensor":
    """Log-probabilities (nats) of chains, with what a listing's rows share computed once.

    Gradients flow to the model, unless ``torch.no_grad()`` says otherwise. The model comes back
    with the attention that it had.

    Args:
        model: a Qwen2-VL, Qwen2.5-VL or Qwen3-VL model of transformers, or a PEFT model around one.
        processor: its processor.
        rows: of :func:`make_pairs` or :func:`make_targets`, not of both.
        images: by ``listing_id``; images of one listing and of the others have one size, such as
            :func:`load_images` gives them.

    Returns:
        In the order of the rows: (rows, 2) of (chosen, rejected), or (rows,) of targets.

    Raises:
        InputError: another family of models, gradient checkpointing, a listing without an entry in
            ``images``, or images of several sizes.
    """
    import torch

    scored = _score(model, processor, rows, images)
    order = torch.tensor([index for part in scored for index in part.rows])
    values = torch.cat([part.logprobs[part.batch.examples] for part in scored])
    return values[order.argsort()].squeeze(1)


def dpo_loss(
    model: Any,
    processor: Any,
    pairs: Sequence[Row],
    images: "Mapping[str, Sequence[Image | bytes]]",
    *,
    reference: "Tensor | None" = None,
    beta: float = 0.2,
    label_smoothing: float = 0.0,
) -> "Tensor":
    """DPO's loss (paper §4.1), the mean over the pairs, ready for ``backward()``.

    Args:
        pairs: of :func:`make_pairs`.
        reference: log-probabilities of the pairs under the reference policy, as
            :func:`chain_logprobs` gives them; None asks a PEFT model without its adapter.
        beta: strength of the pull to the reference.
        label_smoothing: probability (0-0.5) that a preference is the wrong way round.

    Raises:
        InputError: as :func:`chain_logprobs`, or no reference for a model without an adapter.
    """
    import torch

    from raypipe.training.loss import LossOptions, preference_losses

    if reference is None:
        if not hasattr(model, "disable_adapter"):
            raise InputError("a model without a PEFT adapter needs reference= to compare with")
        with torch.no_grad(), model.disable_adapter():
            reference = chain_logprobs(model, processor, pairs, images)
    options = LossOptions(beta, label_smoothing)
    losses = []
    for part in _score(model, processor, pairs, images):
        known = torch.zeros(part.batch.num_chains)
        known[part.batch.examples] = reference[part.rows].detach().float().cpu()
        batch = replace(part.batch, reference=known)
        losses.append(preference_losses(part.logprobs, batch, options)[0])
    return torch.cat(losses).mean()


def read_summary(run: str | Path) -> Summary:
    """A run's ``summary.json``: accuracy of every policy, funnel, pairs, the policy to use.

    Args:
        run: path or URI of the run, or its name below ``runs``.

    Raises:
        InputError: there is no such run, or it has no summary yet.
        ArtifactError: the summary is unreadable.
    """
    opened = find_run(str(run))
    summary = Summary.find(opened)
    if summary is None:
        raise InputError(f"{opened.location} has no summary yet: jobs/round.py writes it")
    return summary


def read_labels(run: str | Path, columns: Sequence[str] | None = None) -> "pa.Table":
    """The newest finished labels of a run as its last labeling publishes them, a row a query;
    ``.to_pandas()`` makes a data frame.

    Args:
        run: path or URI of the run, or its name below ``runs``.
        columns: those to read (:data:`raypipe.schemas.PUBLISHED_LABELS`); by default all.

    Raises:
        InputError: there is no such run, it has no labels, or labels have no such column.
        ArtifactError: a file of the labels is missing or corrupt.
    """
    import pyarrow as pa

    from raypipe.attributes.publishing import read_published
    from raypipe.schemas import PUBLISHED_LABELS

    opened = find_run(str(run))
    schema = PUBLISHED_LABELS.schema
    unknown = set(columns or ()) - set(schema.names)
    if unknown:
        known = ", ".join(schema.names)
        raise InputError(f"labels have no column {', '.join(sorted(unknown))}, but {known}")
    found = newest_published(opened)
    if found is None:
        raise InputError(f"{opened.location} has no finished labels: jobs/label.py makes them")
    names = schema.names if columns is None else list(columns)
    empty = schema.empty_table().select(names)
    return pa.concat_tables([empty, *read_published(*found, columns)])


def _requested(texts: Sequence[str], num_chains: int | None) -> int:
    requested = len(texts) if num_chains is None else num_chains
    if not 0 < requested >= len(texts):
        raise InputError(f"{len(texts)} chains where {requested} were requested")
    return requested


def _finish_reasons(texts: Sequence[str], given: Sequence[str] | None) -> Sequence[str]:
    reasons = ["stop"] * len(texts) if given is None else given
    if len(reasons) != len(texts):
        raise InputError(f"{len(reasons)} finish reasons for {len(texts)} chains")
    return reasons


def _row(attribute: Attribute, listing_id: str, answer_format: AnswerFormat) -> Row:
    (query,) = queries_of([attribute], {})
    turns = prompts.messages(query.prompt, 0, answer_format)
    prompt = [{"role": turn["role"], "content": turn["content"][0]["text"]} for turn in turns]
    return {"listing_id": listing_id, "attribute": attribute.name, "prompt": prompt}


def _turn(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": prompts.without_control_tokens(text)}]


class _Scored(NamedTuple):
    """A pack, the log-probabilities (C,) of its chains, and which rows its examples are."""

    batch: "Batch"
    logprobs: "Tensor"
    rows: list[int]


def _score(
    model: Any,
    processor: Any,
    rows: Sequence[Row],
    images: "Mapping[str, Sequence[Image | bytes]]",
) -> list[_Scored]:
    from raypipe.training import shared_prefix
    from raypipe.training.examples import Examples
    from raypipe.training.packing import in_order
    from raypipe.training.trees import build_trees

    missing = {row["listing_id"] for row in rows} - images.keys()
    if missing or not rows:
        names = ", ".join(sorted(missing))
        raise InputError(f"images has no entry for {names}" if missing else "there are no rows")
    encoded = {row["listing_id"]: _encoded(images[row["listing_id"]]) for row in rows}
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    trees = build_trees(Examples(list(rows), encoded), processor, _image_tokens(processor, encoded))
    # A tree's examples are its listing's rows in their order; trees are in the order of listings.
    order = iter(sorted(range(len(rows)), key=lambda index: str(rows[index]["listing_id"])))
    scored = []
    with _tree_attention(base):
        collate = shared_prefix.Collator(processor, encoded, base.model.get_rope_index)
        for pack in in_order(trees, _TOKENS_PER_PACK):
            batch = collate(pack)
            assert batch is not None  # a pack of in_order is never empty
            own = [next(order) for _ in batch.examples]
            scored.append(_Scored(batch, shared_prefix.chain_logprobs(base, batch), own))
    return scored


@contextmanager
def _tree_attention(base: Any) -> Iterator[None]:
    """The model attends along trees, and afterwards as before."""
    import torch

    from raypipe.errors import ConfigError
    from raypipe.models.families import FAMILIES
    from raypipe.training import shared_prefix

    try:
        shared_prefix.check_family(base.config)
    except ConfigError as error:
        raise InputError(
            f"prefixes are shared in models of {', '.join(FAMILIES)} without sliding windows, "
            f"not in '{base.config.model_type}'"
        ) from error
    language = base.model.language_model
    if torch.is_grad_enabled() and base.training and language.is_gradient_checkpointing:
        # backward() would compute activations again with the attention that the model had before.
        raise InputError("call model.gradient_checkpointing_disable() first")
    before = language.config._attn_implementation
    shared_prefix.prepare_model(base, checkpointing=False)
    try:
        yield
    finally:
        language.set_attn_implementation(before)


def _encoded(images: "Sequence[Image | bytes]") -> list[bytes]:
    """Files as they are, and pictures as lossless PNG."""
    encoded = []
    for image in images:
        if isinstance(image, bytes):
            encoded.append(image)
        else:
            stream = io.BytesIO()
            image.save(stream, "PNG")
            encoded.append(stream.getvalue())
    return encoded


def _image_tokens(processor: Any, images: Mapping[str, Sequence[bytes]]) -> int:
    """Visual tokens of every image.

    Raises:
        InputError: they differ.
    """
    from PIL import Image

    sizes = {Image.open(io.BytesIO(one)).size for listing in images.values() for one in listing}
    images_of = processor.image_processor
    merged = images_of.merge_size**2
    counts = {
        images_of.get_number_of_image_patches(height, width) // merged for width, height in sizes
    }
    if len(counts) > 1:
        raise InputError(
            f"images of one size are needed: these make {', '.join(map(str, sorted(counts)))} "
            "tokens each; raypipe.load_images squashes them to one size"
        )
    return counts.pop() if counts else 0
