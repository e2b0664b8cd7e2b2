"""Console output of an annotation: the plan, the answers and their cost."""

from collections.abc import Mapping, Sequence

from raypipe.annotation.candidates import Candidates
from raypipe.annotation.client import AnnotationRequest
from raypipe.annotation.ledger import Budget
from raypipe.config import Config
from raypipe.runtime.console import Console
from raypipe.store.manifest import Commit


def print_candidates(console: Console, candidates: Candidates, dropped: int) -> None:
    """Print the listings that are left out.

    Args:
        dropped: number of annotated listings that no longer may be annotated.
    """
    for reason, count in sorted(candidates.left_out.items()):
        console.detail(f"left out: {count:,} {reason}")
    if not candidates.has_truth:
        console.note("there is no truth file yet: no listing is left out as verified")
    if dropped:
        console.note(f"{dropped:,} annotated listings are now gone, verified or related")


def print_plan(
    console: Console,
    chosen: Mapping[str, int],
    questions: Sequence[AnnotationRequest],
    left: Sequence[AnnotationRequest],
    budget: Budget,
) -> None:
    """Print the questions before they are sent."""
    rows = ((vertical, f"{count:,}") for vertical, count in sorted(chosen.items()))
    console.table("To annotate", ("vertical", "listings"), rows)
    total = len({question.key for question in questions})
    console.line(
        f"{total:,} questions, {total - len(left):,} of them answered already; "
        f"{len(left):,} to ask{_expected_cost(budget, len(left))}"
    )


def print_answers(
    console: Console, commit: Commit, target: str, listings: int, config: Config
) -> None:
    """Print the answers by reason, and their cost."""
    counts = commit.counts
    rows = [(reason, f"{count:,}") for reason, count in sorted(counts["reasons"].items())]
    if commit.quarantined:
        rows.append(("listing refused", f"{commit.quarantined:,}"))
    console.table("Answers", ("reason", "questions"), rows)
    tokens = counts["prompt_tokens"] + counts["answer_tokens"]
    cost = f", {counts['cost']:.4g} {config.rates.currency}" if counts["cost"] else ""
    console.line(f"{tokens:,} tokens{cost}, over all calls in this run")
    console.done(f"{listings:,} annotated listings in {target}")
    console.detail("a new run learns from them: python jobs/round.py --config … run.name=…")


def _expected_cost(budget: Budget, left: int) -> str:
    """The cost of the unanswered questions, extrapolated from the answered ones."""
    counted = budget.replies - budget.uncounted
    if not counted or not left:
        return ""
    tokens = (budget.prompt_tokens + budget.answer_tokens) / counted * left
    cost = budget.cost / counted * left
    suffix = f", {cost:.4g} {budget.config.rates.currency}" if cost else ""
    return f" (about {tokens:,.0f} tokens{suffix})"
