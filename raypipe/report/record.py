"""What a run holds, as the report reads it: typed, and complete or absent part by part.

Everything comes from ``summary.json`` and from committed artifacts. A part that the run does not
have is None or empty; a part that is committed and corrupt raises, as everywhere.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from raypipe.artifacts import Artifact, Run
from raypipe.documents import parse, parse_object
from raypipe.errors import ArtifactError
from raypipe.schemas import CONSENSUS, EVALUATION


def _finite(value: object) -> object:
    """JSON written by Python may say NaN; to the page that is an absent figure."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Figure = Annotated[float | None, BeforeValidator(_finite)]
Interval = tuple[float, float] | None


class Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Stage(Part):
    """A line of the accuracy table."""

    name: str
    accuracy: Figure = None
    ci95: Interval = None
    queries: int = 0
    invalid: Figure = None
    anchor_accuracy: Figure = None
    decision: str | None = None

    @property
    def is_refused(self) -> bool:
        return self.decision in ("rolled_back", "collapsed")

    @property
    def title(self) -> str:
        return scope_title(self.name)


class Comparison(Part):
    """The best policy against the one that rounds started from, on the same queries."""

    start: str = Field(validation_alias="from")
    to: str
    difference: float
    ci95: Interval = None


class RoundPairs(Part):
    """What a round had to train on; ``source`` is the scope whose chains it learned from."""

    round: int
    start: str
    source: str = ""
    pairs: int = 0
    queries: int = 0
    outcome: str = ""
    reason: str = ""

    @property
    def scope(self) -> str:
        return self.source or self.start


class Alarm(Part):
    """Why the collapse alarm stopped the run."""

    reason: str


class Summary(Part):
    run: str = ""
    model: str = ""
    method: str = ""
    stages: tuple[Stage, ...] = ()
    best: str | None = None
    pairs: tuple[RoundPairs, ...] = ()
    digests: dict[str, str] = {}
    seconds: dict[str, float] = {}
    within: dict[str, dict[str, float]] = {}
    comparison: Comparison | None = None
    alarm: Alarm | None = None

    def stage(self, name: str | None) -> Stage | None:
        return next((stage for stage in self.stages if stage.name == name), None)

    @property
    def baseline(self) -> Stage | None:
        """The policy that rounds start from: SFT, or the base model where SFT was not run."""
        start = self.comparison.start if self.comparison is not None else None
        return self.stage(start) or self.stage("sft") or self.stage("pretrained")

    @property
    def contrast(self) -> tuple[Stage, Stage] | None:
        """The two policies that are compared query by query.

        The baseline and the best; where nothing is better than the baseline, it and the last
        round, to see what went wrong; where there is no round, the base model and SFT.
        """
        baseline, best = self.baseline, self.stage(self.best)
        if baseline is None or len(self.stages) < 2:
            return None
        later = best if best is not None and best != baseline else self.stages[-1]
        return (baseline, later) if later != baseline else (self.stages[0], baseline)


class Group(Part):
    accuracy: Figure = None
    queries: int = 0


class SplitMetrics(Part):
    accuracy: Figure = None
    ci95: Interval = None
    queries: int = 0
    listings: int = 0
    invalid: Figure = None
    macro_vertical: Figure = None
    macro_attribute: Figure = None
    by_vertical: dict[str, Group] = {}
    by_attribute: dict[str, Group] = {}


class ConfidenceLevel(Part):
    votes: int
    queries: int = 0
    accuracy: Figure = None


class Vote(Part):
    """What the vote over sampled chains knew on the anchor split."""

    queries: int = 0
    vote_accuracy: Figure = None
    one_chain_accuracy: Figure = None
    kept: Figure = None
    consensus_accuracy_kept: Figure = None
    greedy_accuracy_kept: Figure = None
    headroom: Figure = None
    headroom_ci95: Interval = None
    by_confidence: tuple[ConfidenceLevel, ...] = ()


class Lean(Part):
    """A value that is answered more often than it is true."""

    attribute: str
    value: str
    share: Figure = None
    truth_share: Figure = None


class Signs(Part):
    """How sure a policy is and how varied its answers are, on the anchor split."""

    confidence: Figure = None
    unanimity: Figure = None
    entropy: Figure = None
    entropy_error: Figure = None
    dominance: Lean | None = None


def _empty_split(value: object) -> object:
    """A split without verified queries is null in the metrics."""
    return SplitMetrics() if value is None else value


Split = Annotated[SplitMetrics, BeforeValidator(_empty_split)]


class Metrics(Part):
    eval: Split = SplitMetrics()
    anchor: Split = SplitMetrics()
    vote: Vote | None = None
    signs: Signs | None = None


@dataclass(frozen=True)
class Confidence:
    """How many pool queries got how many votes; index 0 counts those without a consensus."""

    num_chains: int
    kept: tuple[int, ...]
    dropped: tuple[int, ...]
    gates: Mapping[str, int]

    @property
    def queries(self) -> int:
        return sum(self.kept) + sum(self.dropped)

    @property
    def kept_share(self) -> float:
        return sum(self.kept) / self.queries if self.queries else 0.0


@dataclass(frozen=True)
class Scope:
    """What the run holds of one policy."""

    name: str
    metrics: Metrics | None
    confidence: Confidence | None
    funnel: Mapping[str, Any] | None
    steps: tuple[Mapping[str, float], ...]

    @property
    def title(self) -> str:
        return scope_title(self.name)

    @property
    def vote(self) -> Vote | None:
        return self.metrics.vote if self.metrics is not None else None

    @property
    def knows_votes(self) -> bool:
        """Whether anything was sampled and voted on with this policy."""
        return self.vote is not None or self.confidence is not None


@dataclass(frozen=True)
class Refusal:
    """Quarantined rows of one artifact and reason, with the first few as examples."""

    artifact: str
    reason: str
    count: int
    examples: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Record:
    summary: Summary
    scopes: tuple[Scope, ...]
    refusals: tuple[Refusal, ...]
    versions: Mapping[str, str]

    def scope(self, name: str | None) -> Scope | None:
        return next((scope for scope in self.scopes if scope.name == name), None)


def scope_title(name: str) -> str:
    """A scope as a person says it: "SFT", "Round 2", "Round 3, new draw"."""
    if name == "sft":
        return "SFT"
    plain = name.replace("round-", "round ", 1).replace("-draw", ", new draw")
    return plain[:1].upper() + plain[1:]


def read_record(run: Run) -> Record:
    """Read everything the report shows, the gallery aside.

    Raises:
        ArtifactError: something committed is corrupt or not of its agreed shape.
    """
    summary = _read_summary(run)
    names = [stage.name for stage in summary.stages]
    names += [pairs.scope for pairs in summary.pairs if pairs.scope not in names]
    scopes = tuple(_read_scope(run, name) for name in names)
    refusals = tuple(
        refusal for name in sorted(summary.digests) for refusal in _read_refusals(run, name)
    )
    return Record(summary, scopes, refusals, _read_versions(run, summary))


def read_evaluation(run: Run, scope: str) -> pa.Table:
    """The EVALUATION rows of a scope; none when it was not evaluated."""
    artifact = run.artifact(f"{scope}/evaluation", EVALUATION)
    if artifact.commit() is None:
        return EVALUATION.schema.empty_table()
    return artifact.read()


def _read_summary(run: Run) -> Summary:
    values = run.read_json("summary.json", "jobs/round.py writes it again")
    return Summary() if values is None else _parse(Summary, values, "summary.json")


def _read_scope(run: Run, name: str) -> Scope:
    metrics = _read_json(run.artifact(f"{name}/evaluation", EVALUATION), "metrics.json")
    consensus = run.artifact(f"{name}/consensus", CONSENSUS)
    return Scope(
        name,
        _parse(Metrics, metrics, f"{name}/evaluation metrics.json") if metrics else None,
        _read_confidence(consensus),
        _read_json(consensus, "funnel.json"),
        _read_steps(run.artifact(f"{name}/adapter")),
    )


def _read_file(artifact: Artifact, name: str) -> bytes | None:
    commit = artifact.commit()
    if commit is None or not any(file.path.endswith(f"/{name}") for file in commit.files):
        return None
    return artifact.read_file(name)


def _read_json(artifact: Artifact, name: str) -> Any:
    content = _read_file(artifact, name)
    return None if content is None else parse(content, f"{artifact.name}/{name}")


def _read_steps(adapter: Artifact) -> tuple[Mapping[str, float], ...]:
    content = _read_file(adapter, "training.jsonl")
    lines = (content or b"").splitlines()
    return tuple(parse_object(line, f"{adapter.name} log") for line in lines if line.strip())


def _read_confidence(consensus: Artifact) -> Confidence | None:
    if consensus.commit() is None:
        return None
    counted: Counter[tuple[int, int, str]] = Counter()
    for table in consensus.read_files(["split", "confidence", "num_chains", "gate"]):
        pool = table.filter(pc.equal(table.column("split"), "pool"))
        votes = pc.round(pc.multiply(pool.column("confidence"), pool.column("num_chains")))
        groups = pool.append_column("votes", votes).group_by(["votes", "num_chains", "gate"])
        for row in groups.aggregate([([], "count_all")]).to_pylist():
            key = int(row["votes"]), int(row["num_chains"]), str(row["gate"])
            counted[key] += int(row["count_all"])
    if not counted:
        return None
    num_chains = max(chains for _, chains, _ in counted)
    kept, dropped = [0] * (num_chains + 1), [0] * (num_chains + 1)
    gates: Counter[str] = Counter()
    for (votes, _, gate), count in sorted(counted.items()):
        (kept if gate == "kept" else dropped)[votes] += count
        gates[gate] += count
    return Confidence(num_chains, tuple(kept), tuple(dropped), gates)


def _read_refusals(run: Run, name: str) -> list[Refusal]:
    artifact = run.artifact(name)
    commit = artifact.commit()
    if commit is None or not commit.quarantined:
        return []
    by_reason: dict[str, list[tuple[str, str]]] = {}
    for table in artifact.read_files(kind="quarantine"):
        for row in table.to_pylist():
            by_reason.setdefault(row["reason"], []).append((row["id"], row["detail"]))
    return [
        Refusal(name, reason, len(rows), tuple(sorted(rows)[:3]))
        for reason, rows in sorted(by_reason.items())
    ]


def _read_versions(run: Run, summary: Summary) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for name in sorted(summary.digests):
        commit = run.artifact(name).commit()
        for key, value in (commit.fingerprint if commit else {}).items():
            if key.startswith("versions."):
                found[key.removeprefix("versions.")] = str(value)
    return dict(sorted(found.items()))


P = TypeVar("P", bound=Part)


def _parse(kind: type[P], values: Any, name: str) -> P:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        said = " ".join(str(error).split())[:300]
        raise ArtifactError(f"{name} is not of its agreed shape: {said}") from error
