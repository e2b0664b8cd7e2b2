"""The committed documents of sweeps say what the figures beside them say."""

from pathlib import Path

import pytest

from raypipe.experiments.report.document import results_markdown
from raypipe.experiments.results import Results

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("name", ["results", "results-all-arms"])
def test_the_document_is_made_of_the_figures_beside_it(name: str) -> None:
    results = Results.model_validate_json((DOCS / f"{name}.json").read_text())
    assert (DOCS / f"{name}.md").read_text() == results_markdown(results)


def test_the_readme_quotes_the_results() -> None:
    results = Results.model_validate_json((DOCS / "results.json").read_text())
    readme = (DOCS.parent / "README.md").read_text()
    for name in ("pretrained", "sft", "sl-sft", "dpo-pretrained", "dpo-sft"):
        arm = results.arm(name)
        assert arm is not None
        low, high = arm.ci95
        assert f"| {arm.accuracy:.3f} | {low:.3f} – {high:.3f} |" in readme
