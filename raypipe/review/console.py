"""What a person sees of a review: where the tasks are, and which answers were taken."""

from pathlib import Path

from raypipe.config import Config
from raypipe.review.importing import ImportedReviews
from raypipe.review.tasks import INTERFACE
from raypipe.runtime.console import Console


def print_exported(console: Console, config: Config, tasks: Path) -> None:
    """Where the tasks for reviewers are, and how their answers come back."""
    order = config.labeling.review_order
    console.line(
        f"tasks      {tasks} (labeling.review_order={order})\n"
        f"interface  {tasks.with_name(INTERFACE)} (the labeling setup of the project)\n"
        "then       python jobs/review.py … --import export.json --as seed|anchor|eval"
    )


def print_imported(console: Console, imported: ImportedReviews) -> None:
    """How many answers were taken or refused, and what to do with them."""
    agreed = imported.agreed
    rows = [
        ("answers taken", sum(agreed.values())),
        ("  the model said the same", agreed[True]),
        ("  the model was corrected", agreed[False]),
        ("  the model had no answer", agreed[None]),
        ("tasks not reviewed yet", imported.decisions.not_reviewed),
    ]
    for reason, count in imported.refused.most_common():
        rows.append((f"refused: {reason.replace('_', ' ')}", count))
    figures = ((name, f"{count:,}") for name, count in rows)
    console.table(f"Reviews as {imported.role}", ("", "count"), figures)
    unexplained = imported.refused["no_reasoning"]
    if unexplained > agreed[False]:
        console.note(
            f"{unexplained:,} answers were refused because neither the reviewer nor the model "
            "gives a reason, so the model mostly learns what it says already: a sentence "
            "in the reasoning field of a correction makes it count, and --as anchor or "
            "--as eval asks for none"
        )
    if imported.refused_file is not None:
        console.line(f"refused  {imported.refused_file}")
    if imported.file is None:
        console.note("no answer was taken, so nothing was added to the catalog")
        return
    existing = "" if imported.is_new else " (was there already)"
    console.line(f"answers  {imported.file}{existing}")
    if imported.role != "seed" and imported.chosen_worst:
        console.note(
            f"{imported.chosen_worst:,} of these were reviewed because the model was unsure: "
            "they are not representative of the catalog (labeling.review_order=random would be)"
        )
    console.note("a new run uses them: python jobs/round.py … run.name=<another name>")
