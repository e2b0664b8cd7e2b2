"""A reason is declared once: a new one is in the funnel, on the page and in the metrics.

``docs/reasons.md`` holds all of them; ``python -m tests.contracts.test_reasons`` writes it.
"""

from collections import Counter
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import TypeVar

import pytest

import raypipe.consensus.stage as consensus
import raypipe.report.stage as report
from raypipe.annotation.questions import ReplyReason
from raypipe.attributes.parser import ChainReason
from raypipe.attributes.vote import BELOW_THRESHOLD, Gate, LabelReason, PairLoss, gate_query
from raypipe.config import Config
from raypipe.errors import Reason
from raypipe.runtime import metrics
from raypipe.schemas import QUARANTINE
from raypipe.store.artifacts import Run
from raypipe.store.quarantine import ImageReason, QuarantineReason, quarantine_row
from raypipe.summaries import Decision, Funnel, RoundOutcome
from raypipe.trust.certificate import CertificateOutcome
from tests.fakes.documents import stage
from tests.fakes.partial_runs import summarise
from tests.fakes.voted_run import MakeRun
from tests.fakes.voted_run import chain_rows as chain_rows
from tests.fakes.voted_run import listing_rows as listing_rows
from tests.fakes.voted_run import make_run as make_run

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reasons.md"
VOCABULARIES: dict[type[Reason], str] = {
    ChainReason: "Chains: `reason` in `evaluation`, `chains` in the funnel",
    Gate: "Queries: `gate` in `consensus`, `queries` in the funnel",
    PairLoss: "Queries that are kept and have no pair",
    LabelReason: "Labels: `reason` in `labels`, and in what `read_labels` publishes of them",
    QuarantineReason: "Quarantine: `reason`",
    ImageReason: "Images that are left out: `detail` in quarantine, counts of `prepare`",
    ReplyReason: "Replies of an endpoint, beside those of chains",
    Decision: "Policies: `decision` in `summary.json`",
    RoundOutcome: "Rounds: `outcome` in `summary.json`",
    CertificateOutcome: "Certificates: what verified answers show about a request",
}
R = TypeVar("R", bound=Reason)


def declare(kind: type[R], code: str, why: str) -> Iterator[R]:
    """A reason for the time of a test."""
    yield kind(code, why)
    del kind.declared[code]


@pytest.fixture
def made_up() -> Iterator[Gate]:
    yield from declare(Gate, "made_up_gate", "a test drops it")


@pytest.fixture
def spotted() -> Iterator[QuarantineReason]:
    yield from declare(QuarantineReason, "spotted", "its images have spots")


def test_a_new_gate_is_in_funnel_page_and_metrics(
    made_up: Gate, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counter[str]()  # a metric adds up what each file of chains counts

    def gate(*arguments: object) -> Gate:
        decided = gate_query(*arguments)  # type: ignore[arg-type]
        return made_up if decided == BELOW_THRESHOLD else decided

    def count_by(_: object, metric: metrics.Metric, amounts: dict[str, int]) -> None:
        if metric is metrics.GATED:
            counted.update(amounts)

    monkeypatch.setattr("raypipe.consensus.query_outcome.gate_query", gate)
    monkeypatch.setattr(metrics.Meter, "count_by", count_by)
    run = make_run("run")
    consensus.run(Config(), run, scope="sft", round_index=1)
    lost = Funnel.of(run.artifact("sft/consensus")).total.queries.lost
    assert lost[made_up] > 0
    assert counted[made_up] == lost[made_up]
    page = page_of(run)
    assert "made up gate" in page
    assert made_up.why in page


def test_a_new_reason_for_quarantine_is_on_the_page(
    spotted: QuarantineReason, make_run: MakeRun
) -> None:
    run = make_run("run")
    attempt = run.artifact("sft/evaluation").attempt({})
    row = quarantine_row("l01", "evaluation", spotted, "three spots")
    attempt.write(QUARANTINE.from_rows([row]), kind="quarantine")
    attempt.commit()
    page = page_of(run)
    assert "spotted" in page
    assert spotted.why in page


def test_every_vocabulary_is_in_the_docs() -> None:
    declared = {kind for kind in Reason.__subclasses__() if kind.__module__.startswith("raypipe.")}
    assert declared == set(VOCABULARIES)


def test_the_docs_hold_what_is_declared() -> None:
    assert PAGE.read_text() == document(), "write it anew: python -m tests.contracts.test_reasons"


def page_of(run: Run) -> str:
    names = ("sft/consensus", "sft/evaluation")
    commits = {name: run.artifact(name).commit() for name in names}
    digests = {name: commit.digest for name, commit in commits.items() if commit is not None}
    summarise(run, stages=[stage("sft")], digests=digests)
    return Path(report.run(Config(), run)).read_text()


def document() -> str:
    text = "# Reasons\n\nEvery code that a row, a count or a page of raypipe gives as a reason.\n"
    for kind, title in VOCABULARIES.items():
        text += f"\n## {title}\n\n| code | meaning |\n|---|---|\n"
        text += "".join(
            f"| `{code}` | {escape(made.why, quote=False)} |\n"
            for code, made in kind.declared.items()
        )
    return text


if __name__ == "__main__":
    PAGE.write_text(document())
