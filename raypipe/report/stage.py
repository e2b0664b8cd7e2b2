"""The report stage: from what a run committed to one page that a person reads."""

from raypipe.artifacts import Run
from raypipe.config import Config
from raypipe.report.gallery import build_gallery
from raypipe.report.page import render_page
from raypipe.report.record import read_record
from raypipe.report.sweep import render_sweep
from raypipe.sweep.results import Results

PAGE = "report/index.html"


def run_sweep(run: Run, results: Results) -> str:
    """Write the page of a sweep and return its path; derived, as the run's own."""
    names = {arm.name for arm in results.arms}
    gallery = None
    if {"sft", "dpo-sft"} <= names:
        scopes = (f"seed-{results.seeds[0]}/{name}" for name in ("sft", "dpo-sft"))
        gallery = build_gallery(run, *scopes)
    run.replace(PAGE, render_sweep(results, gallery))
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
