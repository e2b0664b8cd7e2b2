"""The contract of every table: its columns, its key, who writes it and who reads it.

Stages meet here and on disk, never in each other's code. A stage writes through
:meth:`Table.conform`, which refuses a missing, extra or mistyped column, so that what is read
back is what this file says.

| table            | one row is             | written by | read by                       |
|------------------|------------------------|------------|-------------------------------|
| listings         | a listing              | catalog    | sampling, consensus, training |
| seed             | an annotated listing   | catalog    | training                      |
| truth            | an eval/anchor listing | catalog    | evaluation, and nothing else  |
| chains           | a listing              | sampling   | consensus, evaluation         |
| consensus        | a query                | consensus  | evaluation, report            |
| pairs            | a query with >= 1 pair | consensus  | training                      |
| trees            | a listing to learn     | training   | training                      |
| reference        | a listing with pairs   | training   | training                      |
| evaluation       | a query                | evaluation | report                        |
| labels           | a query                | labeling   | evaluation, report, the user  |
| published_labels | a query                | no one     | review, report, the user      |
| annotations      | a query                | annotation | the user                      |
| quarantine       | anything refused       | any stage  | report                        |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from raypipe.errors import ArtifactError

Split = Literal["pool", "seed", "eval", "anchor"]
SPLITS: tuple[Split, ...] = ("pool", "seed", "eval", "anchor")


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


def _optional(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=True)


def _structs(*fields: pa.Field) -> pa.ListType:
    return pa.list_(pa.field("element", pa.struct(list(fields)), nullable=False))


def _list_of(kind: pa.DataType) -> pa.ListType:
    return pa.list_(pa.field("element", kind, nullable=False))


@dataclass(frozen=True)
class Table:
    """A table's Arrow schema and the columns that identify a row."""

    name: str
    schema: pa.Schema
    key: tuple[str, ...]

    def conform(self, table: pa.Table) -> pa.Table:
        """Return ``table`` with exactly this schema.

        Raises:
            ArtifactError: a column is missing, unknown, of another type, or null where required.
        """
        missing = [name for name in self.schema.names if name not in table.column_names]
        extra = [name for name in table.column_names if name not in self.schema.names]
        if missing or extra:
            raise ArtifactError(f"{self.name}: missing columns {missing}, unknown columns {extra}")
        try:
            cast = table.select(self.schema.names).cast(self.schema)
            cast.validate()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
            raise ArtifactError(f"{self.name}: {error}") from error
        for field in self.schema:
            if not field.nullable and cast.column(field.name).null_count:
                raise ArtifactError(f"{self.name}: column '{field.name}' holds nulls")
        return cast

    def check_columns(self, table: pa.Table, columns: Sequence[str] | None = None) -> None:
        """Raises ArtifactError unless all that was read, or its ``columns``, is this table's."""
        for field in table.schema:
            index = self.schema.get_field_index(field.name)
            inside = f"{field.name}."
            inner = [c.removeprefix(inside) for c in columns or () if c.startswith(inside)]
            if index < 0 or not _part(self.schema.field(index).type, inner).equals(field.type):
                raise ArtifactError(f"{self.name}: column '{field.name}' is not of this table")

    def from_rows(self, rows: list[dict[str, object]]) -> pa.Table:
        """Build a table from Python rows; the same refusals as :meth:`conform`."""
        extra = sorted({name for row in rows for name in row} - set(self.schema.names))
        if extra:  # Arrow would drop them without a word
            raise ArtifactError(f"{self.name}: unknown columns {extra}")
        try:
            return self.conform(pa.Table.from_pylist(rows, schema=self.schema))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ArtifactError(f"{self.name}: {error}") from error

    def from_columns(self, columns: Mapping[str, Sequence[object]]) -> pa.Table:
        """:meth:`from_rows` of values by column, with structs as tuples."""
        kinds = [self.schema.field(name).type for name in columns]
        try:
            return self.conform(pa.table(list(map(pa.array, columns.values(), kinds)), [*columns]))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ArtifactError(f"{self.name}: {error}") from error


def _part(kind: pa.DataType, paths: Sequence[str]) -> pa.DataType:
    """A type with the fields at these paths alone, as Arrow reads it; whole without any."""
    if not paths:
        return kind
    if pa.types.is_list(kind):
        return pa.list_(_part(kind.value_type, paths))
    inner: dict[str, list[str]] = {}
    for path in paths:
        name, _, rest = path.partition(".")
        inner.setdefault(name, []).extend([rest] if rest else [])
    kept = (field for field in kind if field.name in inner)
    return pa.struct([field.with_type(_part(field.type, inner[field.name])) for field in kept])


_STRING = pa.string()
_QUERY_KEY = ("listing_id", "attribute")

LISTINGS = Table(
    "listings",
    pa.schema(
        [
            _required("listing_id", _STRING),
            _required("vertical", _STRING),
            _required("split", _STRING),
            _optional("group_id", _STRING),
            # Decoded, squashed to the model's size and encoded once: sampler, trainer and
            # evaluation see the same pixels.
            _required("images", _list_of(pa.binary())),
            _required("image_hashes", _list_of(_STRING)),
            _required(
                "queries",
                _structs(
                    _required("attribute", _STRING),
                    _required("prompt", _STRING),
                    _required("options", _list_of(_STRING)),
                    _optional("seller_value", _STRING),
                ),
            ),
            # Digest of what the row was made from, known before any image is fetched; only in a
            # catalog that is labeled.
            _optional("source_key", _STRING),
        ]
    ),
    ("listing_id",),
)

SEED = Table(
    "seed",
    pa.schema(
        [
            _required("listing_id", _STRING),
            _required(
                "answers",
                _structs(
                    _required("attribute", _STRING),
                    _required("reasoning", _STRING),
                    _required("answer", _STRING),
                ),
            ),
        ]
    ),
    ("listing_id",),
)

TRUTH = Table(
    "truth",
    pa.schema(
        [
            _required("listing_id", _STRING),
            _required(
                "answers",
                _structs(_required("attribute", _STRING), _required("value", _STRING)),
            ),
        ]
    ),
    ("listing_id",),
)

_CHAIN = (
    _required("text", _STRING),
    _required("token_ids", _list_of(pa.int32())),
    # Sum over the completion of the engine's log-probabilities (nats); NaN where nothing uses it.
    # An endpoint's chains have no token ids and NaN here: servers need not tell them.
    _required("logprob", pa.float64()),
    _required("finish_reason", _STRING),
)

CHAINS = Table(
    "chains",
    pa.schema(
        [
            _required("listing_id", _STRING),
            _required("vertical", _STRING),
            _required("split", _STRING),
            _required("policy_id", _STRING),
            _required(
                "queries",
                _structs(
                    _required("attribute", _STRING),
                    # The greedy chain of an eval or anchor query; none for the pool.
                    _optional("greedy", pa.struct(list(_CHAIN))),
                    # The sampled chains of a pool or anchor query; empty for eval.
                    _required("chains", _structs(*_CHAIN)),
                ),
            ),
        ]
    ),
    ("listing_id",),
)

CONSENSUS = Table(
    "consensus",
    pa.schema(
        [
            _required("listing_id", _STRING),
            _required("vertical", _STRING),
            _required("split", _STRING),
            _required("attribute", _STRING),
            # None when no valid chain voted or the first place is tied.
            _optional("answer", _STRING),
            # Votes of the answer over chains requested, 0-1; 0 without an answer.
            _required("confidence", pa.float64()),
            _required(
                "votes", _structs(_required("value", _STRING), _required("count", pa.int32()))
            ),
            _required("num_chains", pa.int32()),
            _required("num_valid", pa.int32()),
            _required("num_truncated", pa.int32()),
            _required("num_pairs", pa.int32()),
            # A code of raypipe.attributes.vote.Gate: "kept", or why the query was dropped.
            _required("gate", _STRING),
            # Preferred chains (indices into the query's chains), for self-learning and labels.
            _required("preferred", _list_of(pa.int32())),
        ]
    ),
    _QUERY_KEY,
)

PAIRS = Table(
    "pairs",
    pa.schema(
        [
            _required("listing_id", _STRING),
            _required("attribute", _STRING),
            _required("prompt", _STRING),
            # Votes of the consensus beyond the runner-up's, over chains requested, 0-1.
            _required("margin", pa.float64()),
            _required(
                "pairs",
                _structs(
                    _required("chosen", _STRING),
                    _required("rejected", _STRING),
                    _required("chosen_index", pa.int32()),
                    _required("rejected_index", pa.int32()),
                ),
            ),
        ]
    ),
    _QUERY_KEY,
)

TREES = Table(
    "trees",
    pa.schema(
        [
            _required("listing_id", _STRING),
            # Where its images are: the number of the file among those of the listings' manifest,
            # and of the row in that file.
            _required("image_file", pa.int32()),
            _required("image_row", pa.int32()),
            # Of the trunk, of every stem and of every chain, one after the other.
            _required("token_ids", _list_of(pa.int32())),
            _required("trunk_tokens", pa.int32()),
            # Of every stem: the attribute that it asks for, and its tokens.
            _required("attributes", _list_of(_STRING)),
            _required("stem_tokens", _list_of(pa.int32())),
            # Of every chain: its stem, and its tokens.
            _required("chain_stems", _list_of(pa.int32())),
            _required("chain_tokens", _list_of(pa.int32())),
            # Of every example: its chains, (chosen, rejected) or a target, and the margin of its
            # vote; 1 for a target.
            _required("examples", _list_of(_list_of(pa.int32()))),
            _required("margins", _list_of(pa.float64())),
        ]
    ),
    ("listing_id",),
)

REFERENCE = Table(
    "reference",
    pa.schema(
        [
            _required("listing_id", _STRING),
            # The distinct chains of its pairs, as the trainer tokenizes them.
            _required(
                "chains",
                _structs(
                    _required("attribute", _STRING),
                    _required("token_ids", _list_of(pa.int32())),
                    # Log-probability (nats) under DPO's reference policy.
                    _required("logprob", pa.float64()),
                ),
            ),
        ]
    ),
    ("listing_id",),
)

EVALUATION = Table(
    "evaluation",
    pa.schema(
        [
            _required("listing_id", _STRING),
            _required("vertical", _STRING),
            _required("split", _STRING),
            _required("attribute", _STRING),
            _required("truth", _STRING),
            _optional("answer", _STRING),
            # Why there is no answer; "ok" when there is one.
            _required("reason", _STRING),
            _required("correct", pa.bool_()),
            _required("text", _STRING),
        ]
    ),
    _QUERY_KEY,
)

LABELS = Table(
    "labels",
    pa.schema(
        [
            _required("listing_id", _STRING),
            _required("vertical", _STRING),
            _required("split", _STRING),
            _required("attribute", _STRING),
            # A code of raypipe.attributes.vote.LabelReason: "answered", or why there is no answer.
            _required("reason", _STRING),
            # What the chains agree on.
            _optional("answer", _STRING),
            # Vote: votes of the answer over chains requested. Greedy: the geometric mean of its
            # tokens' probabilities. 0-1, and 0 without an answer.
            _required("confidence", pa.float64()),
            _required(
                "votes",
                _structs(
                    _required("value", _STRING),
                    _required("count", pa.int32()),
                    # Sum over the chains that vote for the value, 0 to count. A chain counts with
                    # the geometric mean of the probabilities of all of its tokens: a chain's
                    # log-probability is one sum, so the answer's tokens cannot be told apart.
                    _required("probability", pa.float64()),
                ),
            ),
            _required("num_chains", pa.int32()),
            _required("num_valid", pa.int32()),
            # The other chains, by a code of raypipe.attributes.parser.ChainReason.
            _required(
                "invalid", _structs(_required("reason", _STRING), _required("count", pa.int32()))
            ),
            # The greedy chain; None where none was requested.
            _optional(
                "greedy",
                pa.struct(
                    [
                        _optional("answer", _STRING),
                        # A code of ChainReason: "ok" with an answer.
                        _required("reason", _STRING),
                        # The geometric mean of the probabilities of its tokens, 0-1.
                        _required("probability", pa.float64()),
                    ]
                ),
            ),
            # Of the answering chain with the highest log-probability per token.
            _optional("reasoning", _STRING),
            _optional("seller_value", _STRING),
            # Whether the seller's value resolves to another allowed value than the answer; None
            # without both.
            _optional("seller_conflict", pa.bool_()),
            _required("policy_id", _STRING),
            _required("template", _STRING),
            # Of the attribute's entry in the attribute schema.
            _required("schema_version", _STRING),
            # Digest of what the label was made from: images, question, policy, mode. A listing
            # whose key has not changed is not labeled again.
            _required("label_key", _STRING),
            # Of the packages that it was made with, such as "torch 2.13.0, vllm 0.32.0"; no part
            # of the key.
            _required("versions", _STRING),
        ]
    ),
    _QUERY_KEY,
)

_VALUE = _optional("value", _STRING)
_PROBABILITY = _optional("probability", pa.float64())

# Labels as a publishing rule shows them: made when they are read, never written. "value" is what
# the catalog gets, None when the label abstains; "probability" that the answer is right, None
# without an answer; "reason" is "published", "below_precision", or why there is no answer.
PUBLISHED_LABELS = Table(
    "published_labels",
    LABELS.schema.insert(LABELS.schema.get_field_index("votes"), _PROBABILITY).insert(
        LABELS.schema.get_field_index("reason"), _VALUE
    ),
    _QUERY_KEY,
)

ANNOTATIONS = Table(
    "annotations",
    pa.schema(
        [
            _required("listing_id", _STRING),
            _required("vertical", _STRING),
            _required("attribute", _STRING),
            _optional("answer", _STRING),
            _optional("reasoning", _STRING),
            # "ok", why a reply holds no answer ("truncated", "malformed", "spilled",
            # "out_of_schema", "refused"), or "endpoint_error": there is no reply.
            _required("reason", _STRING),
            _required("detail", _STRING),
            _required("text", _STRING),
            # "json" or "tags": how the question was put.
            _optional("form", _STRING),
            _optional("prompt_tokens", pa.int64()),
            _optional("answer_tokens", pa.int64()),
            _required("model", _STRING),
        ]
    ),
    _QUERY_KEY,
)

QUARANTINE = Table(
    "quarantine",
    pa.schema(
        [
            _required("id", _STRING),
            _required("stage", _STRING),
            _required("reason", _STRING),
            _required("detail", _STRING),
        ]
    ),
    ("id", "stage"),
)
