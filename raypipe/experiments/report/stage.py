"""The report of a sweep: one page and one Markdown document from its results."""

from raypipe.experiments.report.document import results_markdown
from raypipe.experiments.report.sweep import FlipGallery, render_sweep
from raypipe.experiments.results import Results
from raypipe.report.gallery import build_gallery
from raypipe.store.artifacts import Run
from raypipe.store.paths import REPORT, RESULTS_PAGE, Paths


def write_sweep_report(run: Run, results: Results) -> str:
    """Write the page of a sweep, and the same tables as ``results.md``; returns the page's path.

    Both are derived, as the run's own page.
    """
    before, after = results.arm("sft"), results.arm("dpo-sft")
    flips = None
    if before is not None and after is not None:
        first = Paths.of_seed(results.seeds[0])
        gallery = build_gallery(run, f"{first}/{before.name}", f"{first}/{after.name}")
        flips = FlipGallery(before.title, after.title, gallery)
    run.replace(REPORT, render_sweep(results, flips))
    run.replace(RESULTS_PAGE, results_markdown(results).encode())
    return run.path(REPORT)
