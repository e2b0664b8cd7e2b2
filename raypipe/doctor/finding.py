"""What one check found: well, doubtful or wrong, and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from raypipe.errors import EXIT_CONFIG, EXIT_RETRY
from raypipe.security.secrets import redacted

FindingStatus = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line of a diagnosis.

    Args:
        what: was looked at.
        detail: what was found; never a secret.
        fix: what to do about it; empty where nothing is to be done.
        exit_code: of a failure: EXIT_CONFIG, or EXIT_RETRY where waiting may mend it.
    """

    verdict: FindingStatus
    what: str
    detail: str
    fix: str = ""
    exit_code: int = EXIT_CONFIG

    def __post_init__(self) -> None:
        object.__setattr__(self, "detail", redacted(self.detail))


def ok(what: str, detail: str) -> Finding:
    return Finding("ok", what, detail)


def warn(what: str, detail: str, fix: str) -> Finding:
    return Finding("warn", what, detail, fix)


def fail(what: str, detail: str, fix: str, exit_code: int = EXIT_CONFIG) -> Finding:
    return Finding("fail", what, detail, fix, exit_code)


def exit_code(findings: Iterable[Finding]) -> int:
    """0 when nothing failed, EXIT_RETRY when waiting may mend all that did, else EXIT_CONFIG."""
    codes = {finding.exit_code for finding in findings if finding.verdict == "fail"}
    if not codes:
        return 0
    return EXIT_RETRY if codes == {EXIT_RETRY} else EXIT_CONFIG
