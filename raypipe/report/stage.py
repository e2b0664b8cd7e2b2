"""The report stage: from what a run committed to one page that a person reads."""

from raypipe.artifacts import Run
from raypipe.config import Config
from raypipe.report.document import results_markdown
from raypipe.report.gallery import build_gallery
from raypipe.report.page import render_page
from raypipe.report.record import read_record
from raypipe.report.sweep import FlipGallery, render_sweep
from raypipe.results import Results

PAGE = "report/index.html"


def run_sweep(run: Run, results: Results) -> str:
    """Write the page of a sweep, and the same tables as ``results.md``; returns the page's path.

    Both are derived, as the run's own page.
    """
    before, after = results.arm("sft"), results.arm("dpo-sft")
    flips = None
    if before is not None and after is not None:
        first = f"seed-{results.seeds[0]}"
        gallery = build_gallery(run, f"{first}/{before.name}", f"{first}/{after.name}")
        flips = FlipGallery(before.title, after.title, gallery)
    run.replace(PAGE, render_sweep(results, flips))
    run.replace("results.md", results_markdown(results).encode())
    return run.path(PAGE)


def run(config: Config, run: Run) -> str:
    """Write the run's page and return its path.

    The page is derived: nothing is committed, and the same run gives the same bytes.

    Raises:
        ArtifactError: a committed artifact is corrupt.
    """
    record = read_record(run)
    contrast = record.summary.contrast
    gallery = build_gallery(run, contrast[0].name, contrast[1].name) if contrast else None
    run.replace(PAGE, render_page(config, record, gallery))
    return run.path(PAGE)
