"""What the report reads of a run: typed, and complete or absent part by part.

Everything comes from ``summary.json`` and from committed artifacts. A part that the run does not
have is None or empty; a part that is committed and corrupt raises, as everywhere.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from raypipe.attributes.vote import KEPT
from raypipe.schemas import CONSENSUS, EVALUATION
from raypipe.store.artifacts import Artifact, Run
from raypipe.store.documents import parse_object
from raypipe.store.paths import TRAINING_LOG, Paths
from raypipe.store.quarantine import QuarantineReason
from raypipe.summaries import Funnel, Metrics, StageSummary, Summary, VoteMetrics


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
    """The artifacts of one policy."""

    name: str
    metrics: Metrics | None
    confidence: Confidence | None
    funnel: Funnel | None
    steps: tuple[Mapping[str, float], ...]

    @property
    def title(self) -> str:
        return scope_title(self.name)

    @property
    def vote(self) -> VoteMetrics | None:
        return self.metrics.vote if self.metrics is not None else None

    @property
    def knows_votes(self) -> bool:
        """Whether chains of this policy were sampled and voted on."""
        return self.vote is not None or self.confidence is not None


@dataclass(frozen=True)
class QuarantinedRows:
    """Quarantined rows of one artifact and reason, with the first few as examples."""

    artifact: str
    reason: str
    count: int
    examples: tuple[tuple[str, str], ...]

    @property
    def why(self) -> str:
        return QuarantineReason.explain(self.reason)


@dataclass(frozen=True)
class Record:
    """``summary`` is None in a run whose rounds have not ended yet."""

    summary: Summary | None
    scopes: tuple[Scope, ...]
    quarantined: tuple[QuarantinedRows, ...]
    versions: Mapping[str, str]

    def scope(self, name: str | None) -> Scope | None:
        return next((scope for scope in self.scopes if scope.name == name), None)

    @property
    def stages(self) -> tuple[StageSummary, ...]:
        return self.summary.stages if self.summary is not None else ()

    @property
    def seconds(self) -> Mapping[str, float]:
        return self.summary.seconds if self.summary is not None else {}

    @property
    def best(self) -> StageSummary | None:
        return self.summary.stage(self.summary.best) if self.summary is not None else None

    @property
    def baseline(self) -> StageSummary | None:
        """The policy that rounds start from: SFT, or the base model where SFT was not run."""
        summary = self.summary
        if summary is None:
            return None
        start = summary.comparison.start if summary.comparison is not None else None
        return summary.stage(start) or summary.stage("sft") or summary.stage("pretrained")

    @property
    def contrast(self) -> tuple[StageSummary, StageSummary] | None:
        """The two policies that are compared query by query.

        The baseline and the best; where nothing is better than the baseline, it and the last
        round, to see what went wrong; where there is no round, the base model and SFT.
        """
        baseline, best = self.baseline, self.best
        if baseline is None or len(self.stages) < 2:
            return None
        later = best if best is not None and best != baseline else self.stages[-1]
        return (baseline, later) if later != baseline else (self.stages[0], baseline)


def scope_title(name: str) -> str:
    """A scope as a heading: "SFT", "Round 2", "Round 3, new draw"."""
    if name == "sft":
        return "SFT"
    plain = Paths(name).caption
    return plain[:1].upper() + plain[1:]


def read_record(run: Run) -> Record:
    """Read everything the report shows, the gallery aside.

    Raises:
        ArtifactError: something committed is corrupt or malformed.
    """
    summary = Summary.find(run)
    if summary is None:
        return Record(None, (), (), {})
    names = [stage.name for stage in summary.stages]
    names += [record.source for record in summary.pairs if record.source not in names]
    made = sorted(summary.digests)
    return Record(
        summary,
        tuple(_read_scope(run, name) for name in names),
        tuple(rows for name in made for rows in _read_quarantine(run.artifact(name))),
        _read_versions(run, made),
    )


def read_evaluation(run: Run, scope: str) -> pa.Table:
    """The EVALUATION rows of a scope; none when it was not evaluated."""
    artifact = run.artifact(Paths(scope).evaluation, EVALUATION)
    if artifact.commit() is None:
        return EVALUATION.schema.empty_table()
    return artifact.read()


def _read_scope(run: Run, name: str) -> Scope:
    evaluation = run.artifact(Paths(name).evaluation, EVALUATION)
    consensus = run.artifact(Paths(name).consensus, CONSENSUS)
    return Scope(
        name,
        Metrics.of(evaluation) if _holds(evaluation, Metrics.FILE) else None,
        _read_confidence(consensus),
        Funnel.of(consensus) if _holds(consensus, Funnel.FILE) else None,
        _read_steps(run.artifact(Paths(name).adapter)),
    )


def _holds(artifact: Artifact, name: str) -> bool:
    commit = artifact.commit()
    return commit is not None and any(file.path.endswith(f"/{name}") for file in commit.files)


def _read_steps(adapter: Artifact) -> tuple[Mapping[str, float], ...]:
    if not _holds(adapter, TRAINING_LOG):
        return ()
    lines = adapter.read_file(TRAINING_LOG).splitlines()
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
        (kept if gate == KEPT else dropped)[votes] += count
        gates[gate] += count
    return Confidence(num_chains, tuple(kept), tuple(dropped), gates)


def _read_quarantine(artifact: Artifact) -> list[QuarantinedRows]:
    commit = artifact.commit()
    if commit is None or not commit.quarantined:
        return []
    by_reason: dict[str, list[tuple[str, str]]] = {}
    for table in artifact.read_files(kind="quarantine"):
        for row in table.to_pylist():
            by_reason.setdefault(row["reason"], []).append((row["id"], row["detail"]))
    return [
        QuarantinedRows(artifact.name, reason, len(rows), tuple(sorted(rows)[:3]))
        for reason, rows in sorted(by_reason.items())
    ]


def _read_versions(run: Run, names: list[str]) -> Mapping[str, str]:
    versions: dict[str, str] = {}
    for name in names:
        commit = run.artifact(name).commit()
        for key, value in (commit.fingerprint if commit else {}).items():
            if key.startswith("versions."):
                versions[key.removeprefix("versions.")] = str(value)
    return dict(sorted(versions.items()))
