"""The JSON documents of a run, as types that their writer and every reader share.

| document         | lies in                  | says                                              |
|------------------|--------------------------|---------------------------------------------------|
| metrics.json     | <scope>/evaluation       | accuracy, headroom of the vote, signs of collapse |
| funnel.json      | <scope>/consensus        | where chains and queries went                     |
| calibration.json | <decision>/calibration   | which labels are published                        |
| quality.json     | <decision>/quality       | what they are worth on the eval split             |
| decision.json    | labels/<n>               | which decision is current                         |
| summary.json     | the run                  | what the run came to (see rounds/summary.py)      |

A decision is labels/<n>/decisions/<digest>; the types of calibration.json and decision.json are in
:mod:`raypipe.attributes.publishing`.

Accuracies, shares and differences are 0-1, intervals are at 95 %. A figure is finite or null. A
document holds exactly the fields of its type: :meth:`Document.parse` refuses any other.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic import model_serializer as serializer

from raypipe.errors import ArtifactError, Reason
from raypipe.store.artifacts import Artifact, Run
from raypipe.store.paths import FUNNEL, METRICS, QUALITY, SUMMARY

Z95 = 1.959964
_LONGEST_FAULT = 300
_POLICY = r"^\w[\w.-]{0,99}(/\w[\w.-]{0,99}){0,3}\Z"


class Decision(Reason):
    """What gate and alarm decide on a policy."""


START = Decision("start", "round 1 starts from it")
ACCEPTED = Decision("accepted", "the next round starts from it")
ROLLED_BACK = Decision("rolled_back", "anchor accuracy fell by more than rounds.max_anchor_drop")
COLLAPSED = Decision("collapsed", "the collapse alarm stopped the run")
REFUSED = (ROLLED_BACK, COLLAPSED)


class RoundOutcome(Reason):
    """How the training of a round ended."""


TRAINED = RoundOutcome("trained", "there is a new policy")
NO_PAIRS = RoundOutcome("no_pairs", "the chains gave no pair")
UNCHANGED = RoundOutcome("unchanged", "training changed nothing")
DIVERGED = RoundOutcome("diverged", "training diverged")


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Figure = Annotated[float | None, BeforeValidator(_finite)]
Interval = tuple[float, float]
Change = tuple[float, float]  # before and after


class Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        populate_by_name=True,
        regex_engine="python-re",
    )


class Document(Part):
    """A part that is a file of its own."""

    FILE: ClassVar[str]
    REMEDY: ClassVar[str] = ""
    """What to do about a broken one, as the end of a sentence."""

    @classmethod
    def parse(cls, content: bytes, place: str) -> Self:
        """Read a document; ``place`` is what an error names.

        Raises:
            ArtifactError: it is no JSON, or has a field too many, too few or of another type.
        """
        try:
            return cls.model_validate_json(content, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(step) for step in first["loc"])
            fault = f"{field}: {first['msg']}" if field else first["msg"]
            fault = " ".join(fault.split())[:_LONGEST_FAULT] if content else "empty"
            end = f"; {cls.REMEDY}" if cls.REMEDY else ""
            raise ArtifactError(f"{place} is unreadable: {fault}{end}") from error

    @classmethod
    def of(cls, artifact: Artifact) -> Self:
        """The document in a committed artifact. Raises ArtifactError when it is not there, too."""
        return cls.parse(artifact.read_file(cls.FILE), f"{artifact.name}/{cls.FILE}")

    @classmethod
    def find(cls, run: Run) -> Self | None:
        """The document of a run; None where there is none. Raises ArtifactError, too."""
        content = run.read(cls.FILE)
        return None if content is None else cls.parse(content, run.path(cls.FILE))

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)


def wilson(share: float, trials: int) -> Interval:
    """The 95 % Wilson interval of a share; it stays inside 0-1 at small counts."""
    square = Z95**2 / trials
    center = (share + square / 2) / (1 + square)
    half = Z95 * math.sqrt(share * (1 - share) / trials + square / (4 * trials)) / (1 + square)
    return max(0.0, center - half), min(1.0, center + half)


class Group(Part):
    """A vertical, or an attribute of one."""

    accuracy: float
    queries: int


class SplitMetrics(Part):
    """Accuracy on a split; figures are null in one without verified queries."""

    accuracy: Figure
    ci95: Interval | None
    queries: int
    listings: int
    invalid: Figure
    """Share of queries without an answer."""
    macro_vertical: Figure
    macro_attribute: Figure
    by_vertical: dict[str, Group]
    by_attribute: dict[str, Group]
    """By "vertical/attribute"."""


class ConfidenceLevel(Part):
    """Queries whose consensus has so many votes; 0 is no consensus."""

    votes: int
    queries: int
    accuracy: float


class VoteMetrics(Part):
    """What a round can learn from the vote, on the anchor split.

    ``vote_accuracy`` and ``one_chain_accuracy`` are over all queries: the consensus, and a chain
    drawn at random. ``headroom`` is over the queries that the gate keeps: how much more often the
    consensus is right there than the greedy chain. Null where none is kept.
    """

    queries: int
    vote_accuracy: float
    one_chain_accuracy: float
    kept: float
    consensus_accuracy_kept: Figure
    greedy_accuracy_kept: Figure
    headroom: Figure
    headroom_ci95: Interval | None
    by_confidence: tuple[ConfidenceLevel, ...]


class OverpredictedValue(Part):
    """A value that is answered more often than it is true.

    ``attribute`` reads "vertical/attribute", or "attribute" for that of all verticals that have it,
    where they are several. Shares are of the ``queries`` of it that have an answer.
    """

    attribute: str
    value: str
    share: float
    truth_share: float
    queries: int

    def exceeds(self, share: float) -> bool:
        """Whether chance does not explain how far the answers' share is above another one of as
        many queries: their 95 % Wilson intervals do not meet.

        Stricter than either interval, since every value of every attribute is looked at.
        """
        return wilson(self.share, self.queries)[0] > wilson(share, self.queries)[1]


class CollapseMetrics(Part):
    """How sure a policy is and how varied its answers are, on the anchor split."""

    queries: int
    entropy: Figure = None
    """Of the answers over that of the verified values of the same queries, both within each
    vertical and attribute: 1 is as varied as the truth, 0 one value for each attribute; null where
    the verified values do not vary."""
    entropy_error: Figure = None
    """Its standard error over listings."""
    overpredicted: tuple[OverpredictedValue, ...] = ()
    """The furthest first."""
    confidence: Figure = None
    """Mean confidence of the vote; null where no vote was taken."""
    unanimity: Figure = None
    """Share of the queries whose chains, all of them, gave one answer."""

    @property
    def most_overpredicted(self) -> OverpredictedValue | None:
        """The furthest value that is clear of chance."""
        found = (value for value in self.overpredicted if value.exceeds(value.truth_share))
        return next(found, None)


class Metrics(Document):
    FILE = METRICS

    eval: SplitMetrics
    anchor: SplitMetrics
    vote: VoteMetrics | None
    """Null where the anchor was not voted on."""
    collapse: CollapseMetrics | None
    """Null without verified anchor queries."""


class _Counts(Part):
    """Counts by name, among them one for each declared reason of a loss."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, int]

    @property
    def lost(self) -> Mapping[str, int]:
        """By reason, in the order of its declaration."""
        return self.__pydantic_extra__


class ChainCounts(_Counts):
    """A chain that was requested is valid or lost."""

    requested: int
    valid: int


class QueryCounts(_Counts):
    """A query is kept, or lost by the gate. A kept one is unanimous, or paired, or (rarely)
    neither: its dispreferred chains say word for word what the preferred ones say."""

    asked: int
    kept: int
    unanimous: int
    paired: int

    @serializer
    def _in_order(self) -> dict[str, int]:
        after = {"unanimous": self.unanimous, "paired": self.paired}
        return {"asked": self.asked, "kept": self.kept, **self.lost, **after}


class FunnelCounts(Part):
    chains: ChainCounts
    queries: QueryCounts
    pairs: int


class Funnel(Document):
    """Where the pool's chains and queries went between sampling and training."""

    FILE = FUNNEL

    total: FunnelCounts
    by_vertical: dict[str, FunnelCounts]
    by_attribute: dict[str, FunnelCounts]
    """By "vertical/attribute"."""


class MeasuredShare(Part):
    value: float
    ci95: Interval


class CoveragePoint(Part):
    """What is answered from a confidence upwards."""

    threshold: float
    coverage: float
    accuracy: float
    queries: int


class ReliabilityBin(Part):
    """Answers of about one probability, and how often they are right."""

    probability: float
    accuracy: float
    queries: int


class LabelGroup(Part):
    queries: int
    accuracy: float
    coverage: float
    precision: Figure


class SellerComparison(Part):
    """Labels against the seller's own values, where both are allowed values."""

    queries: int
    conflicts: int
    label_right: int
    seller_right: int


class Quality(Document):
    """Labels on the eval split; ``holds``: the target is not above the precision's interval."""

    FILE = QUALITY

    queries: int
    answered: int
    published: int
    accuracy: MeasuredShare
    coverage: MeasuredShare
    precision: MeasuredShare | None
    """Null where nothing is published."""
    target_precision: float
    threshold: Figure
    holds: bool
    curve: tuple[CoveragePoint, ...]
    reliability: tuple[ReliabilityBin, ...]
    calibration_error: Figure
    brier: Figure
    groups: dict[str, LabelGroup]
    """By "vertical/attribute"."""
    seller: SellerComparison


class StageSummary(Part):
    """A policy on the eval split, and its accuracy on the anchor split."""

    name: str
    accuracy: Figure
    ci95: Interval | None
    queries: int
    invalid: Figure
    anchor_accuracy: Figure
    decision: Decision | None
    policy_id: str

    @property
    def is_refused(self) -> bool:
        return self.decision in REFUSED


class Gain(Part):
    """Anchor accuracy of one policy less that of another, paired on the same queries."""

    difference: float
    error: float

    @property
    def is_up(self) -> bool:
        """Whether it exceeds a standard error; of policies that are equal one in six does."""
        return self.difference > self.error


class Evidence(Part):
    """Why a policy counts as collapsed since another.

    ``confidence`` and ``unanimity`` are null where one of the two was not voted on, ``entropy``
    where the verified values do not vary, ``takeover`` where no value has taken over.
    """

    policy: str
    since: str
    anchor_accuracy: Change
    gain: Gain
    confidence: Change | None
    unanimity: Change | None
    entropy: Change | None
    takeover: OverpredictedValue | None
    reason: str
    """The same in one sentence."""


class Comparison(Part):
    """One policy against another on the same queries."""

    start: str = Field(alias="from")
    to: str
    difference: float
    ci95: Interval
    queries: int


class RoundRecord(Part):
    """What a round had to train on; ``source`` is the scope whose chains it learned from."""

    round: int
    start: str
    source: str
    pairs: int
    queries: int
    outcome: RoundOutcome
    reason: str = ""
    """Why it is not trained, where that takes words."""

    @property
    def why(self) -> str:
        return self.reason or self.outcome.why


class Summary(Document):
    FILE = SUMMARY
    REMEDY = "jobs/round.py writes it again"

    version: int = 1
    run: str
    model: str
    method: str
    stages: tuple[StageSummary, ...]
    best: str = Field(pattern=_POLICY)
    alarm: Evidence | None
    comparison: Comparison | None
    funnel: dict[str, FunnelCounts]
    pairs: tuple[RoundRecord, ...]
    unchanged: tuple[str, ...]
    digests: dict[str, str]
    seconds: dict[str, float]
    quarantined: dict[str, int]
    within: dict[str, dict[str, float]]

    def stage(self, name: str | None) -> StageSummary | None:
        return next((stage for stage in self.stages if stage.name == name), None)
