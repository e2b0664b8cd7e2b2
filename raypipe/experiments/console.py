"""What a person sees of a sweep: its plan, its arms, and the claims at the end."""

from raypipe.config import Config
from raypipe.experiments.estimate import plan_sweep
from raypipe.experiments.results import Results
from raypipe.runtime.console import Console

_VERDICTS = {"holds": "holds", "fails": "fails", "inside_noise": "inside the noise"}


def print_plan(config: Config, console: Console) -> None:
    """What the sweep would take, arm by arm and in all."""
    console.plan("What the sweep would take", ("arm", "seed"), plan_sweep(config), config)


def print_arm(console: Console, scope: str, reason: str | None) -> None:
    """An arm has figures, or a reason why it has none."""
    if reason is None:
        console.done(scope)
    else:
        console.note(f"{scope}: {reason}")


def print_results(console: Console, results: Results) -> None:
    """The arms and the claims."""
    arms = []
    for arm in results.arms:
        pairs = arm.seeds[0].pairs if arm.method != "none" else None
        interval = "{:.3f} – {:.3f}".format(*arm.ci95)
        counts = "" if pairs is None else f"{pairs:,}", str(len(arm.seeds))
        arms.append((arm.title, f"{arm.accuracy:.3f}", interval, *counts))
    title = f"Accuracy on the eval split, {results.eval_queries:,} queries"
    console.table(title, ("arm", "accuracy", "95 % interval", "pairs", "seeds"), arms)
    claims = []
    for claim in results.comparisons:
        low, high = (100 * bound for bound in claim.ci95)
        verdict = _VERDICTS[claim.verdict] if claim.expected != "any" else ""
        figures = f"{100 * claim.difference:+.1f}", f"[{low:+.1f}, {high:+.1f}]"
        claims.append((claim.statement, *figures, verdict))
    title = "Claims, paired on the same queries, in points"
    console.table(title, ("claim", "difference", "95 %", ""), claims, left=[""])
