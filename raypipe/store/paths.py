"""The names of a run's artifacts and other files.

An artifact is ``<scope>/<part>``: the scope is the owner (the catalog, a policy, an arm, a label
version), the part is the content.
"""

from typing import Any

# Files of a run that belong to no artifact.
RUN = "run.json"
SUMMARY = "summary.json"
RESULTS = "results.json"
RESULTS_PAGE = "results.md"
TRACKING = "tracking.json"
REQUEST = "request.json"
COMPARED = "compared.json"
DECISION = "decision.json"
REPORT = "report/index.html"
# Plain files within an artifact.
ATTRIBUTE_SCHEMA = "attribute_schema.json"
FUNNEL = "funnel.json"
METRICS = "metrics.json"
CALIBRATION = "calibration.json"
QUALITY = "quality.json"
PUBLISHED_COUNTS = "published.json"
TRAINING_LOG = "training.jsonl"
# Directories without artifacts.
TRAININGS = ".training"
TENSORBOARD = "tensorboard"
RUN_EVENTS = "tensorboard/run"
REPLIES = "annotation/replies"
TABLES = "tables"
EXPORTS = "exports"
REPORTS = "report"
LABELS_ROOT = "labels"
SURVEYS = "surveys"
INPUT_HASHES = "inputs.json"
LABEL_SHARDS = f"{LABELS_ROOT}/shards"
EVALUATIONS = "evaluations"
_REDRAW = "-draw"
# Regular expressions of scopes that are numbered or named by a digest.
ROUND_SCOPE = r"round-(?P<round>\d+)(?P<redraw>-draw)?"
SEED_SCOPE = r"seed-(?P<seed>\d+)"
LABEL_VERSION_SCOPE = r"labels/\d{6}"
DECISION_DIGEST = r"[0-9a-f]{12}"
EVALUATION_SCOPE = r"evaluations/(?!catalog-)(?P<policy>.+)-[0-9a-f]{12}"
ANNOTATION_SCOPE = r"annotation/[0-9a-f]{12}"


class _Part:
    def __set_name__(self, owner: type[Any], name: str) -> None:
        self._name = name

    def __get__(self, scope: str, owner: type[Any]) -> str:
        return f"{scope}/{self._name}"


class Paths(str):
    """A directory of related artifacts of a run; each attribute names one of them."""

    listings = _Part()
    seed = _Part()
    truth = _Part()
    adapter = _Part()
    chains = _Part()
    consensus = _Part()
    pairs = _Part()
    trees = _Part()
    target_trees = _Part()
    reference = _Part()
    planned_reference = _Part()
    evaluation = _Part()
    calibration_run = _Part()
    calibration = _Part()
    quality = _Part()
    published = _Part()
    labels = _Part()
    answers = _Part()

    @classmethod
    def of(cls, artifact: str) -> "Paths":
        """The scope of an artifact's name."""
        return cls(artifact.rpartition("/")[0])

    @classmethod
    def of_round(cls, index: int) -> "Paths":
        """The scope of a round, also the name of the policy that it trains."""
        return cls(f"round-{index}")

    @classmethod
    def of_redraw(cls, round_name: str) -> "Paths":
        """New chains that a round samples from its starting policy."""
        return cls(f"{round_name}{_REDRAW}")

    @classmethod
    def of_seed(cls, seed: int) -> "Paths":
        """All arms of a sweep with one seed."""
        return cls(f"seed-{seed}")

    @classmethod
    def of_arm(cls, seed: int, name: str) -> "Paths":
        return cls(f"seed-{seed}/{name}")

    @classmethod
    def of_label_version(cls, number: int) -> "Paths":
        return cls(f"{LABELS_ROOT}/{number:06d}")

    @classmethod
    def of_decision(cls, label_version: str, digest: str) -> "Paths":
        """What a label version publishes, and what that is worth."""
        return cls(f"{label_version}/decisions/{digest[:12]}")

    @classmethod
    def of_calibration_run(cls, fingerprint: str) -> "Paths":
        return cls(f"{LABELS_ROOT}/{fingerprint[:12]}")

    @classmethod
    def of_labeled_listings(cls, digest: str) -> "Paths":
        """Listings with a truth that are not the run's own."""
        return cls(f"{EVALUATIONS}/catalog-{digest[:12]}")

    @classmethod
    def of_evaluation(cls, policy: str, digest: str) -> "Paths":
        """Answers of a policy or an endpoint to listings; the digest is of both."""
        return cls(f"{EVALUATIONS}/{policy}-{digest[:12]}")

    @classmethod
    def of_annotation(cls, digest: str) -> "Paths":
        return cls(f"annotation/{digest}")

    @property
    def caption(self) -> str:
        """For display: "round 1, new draw"."""
        return self.replace("round-", "round ", 1).replace(_REDRAW, ", new draw")

    @property
    def request(self) -> str:
        """The request that a label version was started with."""
        return f"{self}/{REQUEST}"

    @property
    def compared(self) -> str:
        """Which shards of a label version share no id."""
        return f"{self}/{COMPARED}"

    @property
    def decision(self) -> str:
        """Names the current decision of a label version."""
        return f"{self}/{DECISION}"

    @property
    def page(self) -> str:
        """The page of a label version, at its current decision."""
        return f"{self}/{REPORT}"

    @property
    def evaluation_page(self) -> str:
        return f"{REPORTS}/evaluation-{self.rpartition('/')[2]}.html"


CATALOG = Paths("catalog")


def is_of_round(name: str) -> bool:
    """Whether a scope, or an artifact, belongs to a round."""
    return name.startswith("round-")


def is_redraw(scope: str) -> bool:
    return scope.endswith(_REDRAW)
