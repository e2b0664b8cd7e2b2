"""The report stage: from what a run committed to one page that a person reads."""

from raypipe.config import Config
from raypipe.report.gallery import build_gallery
from raypipe.report.page import render_page
from raypipe.report.run_data import read_record
from raypipe.store.artifacts import Run
from raypipe.store.paths import REPORT


def run(config: Config, run: Run) -> str:
    """Write the run's page and return its path.

    The page is derived: nothing is committed, and the same run gives the same bytes.

    Raises:
        ArtifactError: a committed artifact is corrupt.
    """
    record = read_record(run)
    contrast = record.contrast
    gallery = build_gallery(run, contrast[0].name, contrast[1].name) if contrast else None
    run.replace(REPORT, render_page(config, record, gallery))
    return run.path(REPORT)
