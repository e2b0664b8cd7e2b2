"""What a person sees at the end of a run: accuracies, and where the time went."""

from collections import Counter
from collections.abc import Mapping

from raypipe.config import Config
from raypipe.report.formatting import percent, score
from raypipe.rounds.estimate import plan_rounds
from raypipe.rounds.gate import GateDecision
from raypipe.runtime.console import Console
from raypipe.summaries import REFUSED, Summary


def print_plan(config: Config, console: Console) -> None:
    """What a run would take, policy by policy and in all; finished work is excluded."""
    columns = "policy", "listings", "queries"
    console.plan("What the run would take", columns, plan_rounds(config), config)


def print_decision(console: Console, decision: GateDecision, best: GateDecision) -> None:
    text = (
        f"{decision.policy}: anchor accuracy {decision.anchor_accuracy:.3f}, "
        f"{decision.decision.replace('_', ' ')}"
    )
    if decision.decision in REFUSED:
        console.note(f"{text}; best is {best.policy} ({best.anchor_accuracy:.3f})")
    else:
        console.done(text)


def print_summary(console: Console, summary: Summary) -> None:
    console.table(
        "Accuracy on the eval split",
        ("policy", "accuracy", "95 % interval", "queries", "invalid", "anchor", "gate"),
        (
            (
                stage.name + (" *" if stage.name == summary.best else ""),
                score(stage.accuracy),
                " – ".join(map(score, stage.ci95 or (None,))),
                f"{stage.queries:,}",
                percent(stage.invalid),
                score(stage.anchor_accuracy),
                (stage.decision or "").replace("_", " "),
            )
            for stage in summary.stages
        ),
        left=["gate"],
        caption="* the policy to use: the best on the anchor split",
    )
    if (comparison := summary.comparison) is not None:
        low, high = (100 * bound for bound in comparison.ci95)
        console.line(
            f"{comparison.to} − {comparison.start} = {100 * comparison.difference:+.1f} "
            f"points, 95 % [{low:+.1f}, {high:+.1f}], paired on the same queries"
        )
    seconds = _seconds(summary.seconds, summary.within)
    rows = ((kind, f"{spent:.1f}") for kind, spent in seconds.most_common())
    console.table("Where the time went", ("stage", "seconds"), rows)


def _seconds(
    seconds: Mapping[str, float], within: Mapping[str, Mapping[str, float]]
) -> Counter[str]:
    """Seconds by kind of stage, as they were when each was made, and by part where a stage tells
    its parts apart."""
    kinds: Counter[str] = Counter()
    for name, spent in seconds.items():
        kind = name.split("/")[1]
        parts = {f"{kind}: {part}": took for part, took in within.get(name, {}).items()}
        parts[f"{kind}: the rest" if parts else kind] = spent - sum(parts.values())
        for part, took in parts.items():
            kinds[part] += took  # type: ignore[assignment]
    return kinds
