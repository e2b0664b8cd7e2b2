"""Which listings may be annotated, from metadata alone: no image is read."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count, takewhile

from raypipe.annotation.seed import SeedFile
from raypipe.attributes.schema import AttributeSchema
from raypipe.catalog.answer_files import find_answers
from raypipe.catalog.snapshots import parse_location
from raypipe.catalog.sources import TRUTH_COLUMNS, Source
from raypipe.catalog.tables import Tables
from raypipe.config import Config
from raypipe.errors import InputError
from raypipe.models.policies import PRETRAINED, SFT, round_name
from raypipe.schemas import CONSENSUS
from raypipe.security.identifiers import is_stand_in
from raypipe.store.artifacts import Run
from raypipe.store.paths import Paths


@dataclass(frozen=True)
class Candidates:
    """The vertical of each listing that may be annotated, including those already annotated under
    this annotation_id; the number left out, by reason; and whether there is a truth file."""

    verticals: Mapping[str, str]
    left_out: Counter[str]
    has_truth: bool


def candidates_of(
    config: Config, run: Run, schema: AttributeSchema, listings: Source, seed: SeedFile
) -> Candidates:
    """Read ids, verticals and groups of the whole catalog; no image is read.

    Verified listings and listings of their groups are left out, since they would leak into
    evaluation; so are listings that another seed file answers.

    Raises:
        InputError: a duplicate id, or a corrupt file.
    """
    _ = listings.listing_ids  # checks that ids are unique
    verified = _verified(config, run)
    annotated = seed.others(str(config.catalog.seed))
    given, groups = _verticals_and_groups(listings)
    related = {groups[name] for name in verified or () if name in groups}
    left_out: Counter[str] = Counter()
    verticals: dict[str, str] = {}
    for name, vertical in given.items():
        reason = None
        if is_stand_in(name):
            reason = "without an id that a listing can have"
        elif verified is not None and name in verified:
            reason = "verified"
        elif groups.get(name) in related:
            reason = "of the family of a verified one"
        elif name in annotated:
            reason = "annotated in another file of the seed"
        elif vertical not in schema.verticals:
            reason = "of a vertical that the attribute schema lacks"
        if reason is None:
            verticals[name] = str(vertical)
        else:
            left_out[reason] += 1
    return Candidates(verticals, left_out, verified is not None)


def _verticals_and_groups(listings: Source) -> tuple[dict[str, str | None], dict[str, str]]:
    given: dict[str, str | None] = {}
    groups: dict[str, str] = {}
    for batch in listings.read(["listing_id", "vertical", "group_id"]):
        for row in batch.to_pylist():
            given[row["listing_id"]] = row["vertical"]
            if row.get("group_id"):
                groups[row["listing_id"]] = row["group_id"]
    return given, groups


def newest_vote(run: Run) -> str:
    """The scope of the newest consensus. Raises InputError when there is none."""
    rounds = takewhile(
        lambda name: run.artifact(Paths(name).adapter).commit() is not None,
        map(round_name, count(1)),
    )
    scopes = [PRETRAINED, SFT]
    for name in rounds:
        scopes += [Paths.of_redraw(name), name]
    voted = [scope for scope in scopes if run.artifact(Paths(scope).consensus).commit() is not None]
    if not voted:
        raise InputError(
            f"annotation.choose=disagreement needs a vote, and {run.location} has none yet: run "
            "jobs/round.py first"
        )
    return voted[-1]


def confidences_of(run: Run, scope: str) -> dict[str, list[float]]:
    """C (0-1) of every query of the pool's listings, by listing."""
    votes = run.artifact(Paths(scope).consensus, CONSENSUS)
    found: dict[str, list[float]] = {}
    for table in votes.read_files(["listing_id", "split", "confidence"]):
        for row in table.to_pylist():
            if row["split"] == "pool":
                found.setdefault(row["listing_id"], []).append(row["confidence"])
    return found


def _verified(config: Config, run: Run) -> frozenset[str] | None:
    """Ids with verified values; None without a truth file."""
    location = str(config.catalog.truth)
    if parse_location(location) is not None:
        with Tables(config, run) as tables:
            return tables.answers(location, TRUTH_COLUMNS).listing_ids
    source = find_answers(location, TRUTH_COLUMNS)
    return None if source is None else source.listing_ids
