"""The ``prepare`` stage: the user's catalog as listings, seed and truth of the run.

Every image is decoded once, whatever is killed meanwhile. Then the splits are known, leaks
refused, and the three artifacts committed, listings last.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from raypipe.attributes.prompts import TEMPLATE_VERSION
from raypipe.attributes.schema import AttributeSchema
from raypipe.catalog.answer_files import AnswerFiles
from raypipe.catalog.answers import ValueField, answers_of, commit_answers
from raypipe.catalog.distributed import SourceReader
from raypipe.catalog.hashed_files import HashedFiles
from raypipe.catalog.inputs import Inputs, open_inputs, roles_of
from raypipe.catalog.pool import NOBODY, PoolChoice, choose_pool
from raypipe.catalog.preparation import (
    Preparation,
    PreparedCatalog,
    absent_listings,
    survey_listings,
)
from raypipe.catalog.relatives import Relatives
from raypipe.catalog.shards import SourceShard
from raypipe.catalog.sources import Source
from raypipe.catalog.splits import Assignment, assign
from raypipe.catalog.tables import Tables
from raypipe.config import CatalogConfig, Config, EmbeddedCatalogConfig
from raypipe.errors import InputError
from raypipe.runtime import metrics
from raypipe.runtime.cluster import ensure_ray
from raypipe.runtime.tasks import in_this_process
from raypipe.schemas import LISTINGS, SEED, TRUTH, Split
from raypipe.store.artifacts import Artifact, Run
from raypipe.store.lease import lease
from raypipe.store.manifest import Commit, versions
from raypipe.store.paths import CATALOG, Paths
from raypipe.store.quarantine import LEAKAGE

EVAL: Split = "eval"


def run(config: Config, run: Run, *, any_versions: bool = False) -> Commit:
    """Prepare the catalog; nothing is decoded again when all three artifacts are committed.

    Args:
        any_versions: whether what was prepared with other versions of packages will do.

    Returns:
        The commit of the listings. Its counts: ``listings`` by split, ``queries`` by split,
        ``images``, ``images_skipped`` by reason, ``refused`` by reason, ``beyond_cap``.

    Raises:
        InputError: a fault of the user's files.
        QuarantineLimitError: more listings were refused than ``catalog.max_quarantined``.
        ConfigDriftError: the run was prepared with other settings or from other files.
    """
    if config.catalog.embedded is not None:
        return _run_embedded(config, config.catalog.embedded, run, any_versions)
    with Tables(config, run, _held(run)) as tables:
        inputs = open_inputs(config.catalog, tables)
    hashed = HashedFiles(run)
    fingerprint = _fingerprint(config) | inputs.fingerprint(hashed)
    committed = _committed(run, fingerprint, any_versions)
    if committed is not None:
        return committed
    with lease(run, CATALOG.listings):
        committed = _committed(run, fingerprint, any_versions)
        return committed or _prepare(config, run, fingerprint, inputs, hashed)


def run_labeled(
    config: Config, run: Run, *, schema: AttributeSchema, listings: Source, truth: AnswerFiles
) -> str:
    """Prepare foreign listings that have a truth, all of them as eval listings.

    Commits ``listings`` and ``truth`` in a scope that is named after what the files hold, so that
    every policy that is asked about them is asked the same.

    Returns:
        The scope.

    Raises:
        InputError: a fault of the files, such as a truth without a listing.
        QuarantineLimitError: more listings were refused than ``catalog.max_quarantined``.
    """
    hashed = HashedFiles(run)
    fingerprint = {
        **config.fingerprint_keys("images"),
        **listings.digest("inputs.listings", hashed),
        **truth.digest("inputs.truth", hashed),
        "inputs.attribute_schema": schema.to_json(),
        "template": TEMPLATE_VERSION,
        **versions("raypipe", "pillow"),
    }
    canonical = json.dumps(fingerprint, sort_keys=True).encode()
    scope = Paths.of_labeled_listings(hashlib.sha256(canonical).hexdigest())
    artifact = run.artifact(scope.listings, LISTINGS)
    if artifact.find_commit(fingerprint) is not None:  # committed after the truth
        return scope
    roles = dict.fromkeys(truth.listing_ids, EVAL)
    if not roles:
        raise InputError(f"{truth.name} holds no verified listings")
    reader = SourceReader(listings, schema, config.catalog)
    shards = listings.shards(listings.content_stamps(hashed))
    with _session(config, shards), lease(run, scope.listings):
        if artifact.find_commit(fingerprint) is not None:
            return scope
        survey_listings(run, reader, shards)
        if absent := absent_listings(run, shards, roles):
            raise InputError(
                f"{truth.name}: {len(absent)} ids are not among the listings (first: '{absent[0]}')"
            )
        choice = PoolChoice(frozenset(roles), config.run.seed, NOBODY)
        attempt = artifact.attempt(fingerprint)
        prepared = Preparation(attempt, reader, shards, choice, len(roles)).prepare()
        verticals = {name: listing.vertical for name, listing in prepared.named.items()}
        answers = answers_of(truth, verticals, schema, "value")
        commit_answers(run.artifact(scope.truth, TRUTH), fingerprint, answers, verticals)
        prepared.commit(Assignment(dict.fromkeys(verticals, EVAL), {}), Relatives({}, {}))
    return scope


def _run_embedded(
    config: Config, sizes: EmbeddedCatalogConfig, run: Run, any_versions: bool
) -> Commit:
    from raypipe.embedded.catalog import RENDERER_VERSION, write_catalog

    fingerprint = _fingerprint(config) | {"catalog.embedded.renderer": RENDERER_VERSION}
    if (commit := _committed(run, fingerprint, any_versions)) is not None:
        return commit
    with (
        lease(run, CATALOG.listings),
        tempfile.TemporaryDirectory(prefix="raypipe-embedded-") as directory,
    ):
        if (commit := _committed(run, fingerprint, any_versions)) is not None:
            return commit
        write_catalog(directory, **sizes.model_dump())
        inputs = open_inputs(
            CatalogConfig(
                listings=f"{directory}/listings.parquet",
                attribute_schema=f"{directory}/schema.yaml",
                seed=f"{directory}/seed.parquet",
                truth=f"{directory}/truth.parquet",
            )
        )
        with in_this_process():  # other nodes do not see the directory
            return _prepare(config, run, fingerprint, inputs, HashedFiles())


def _fingerprint(config: Config) -> dict[str, Any]:
    return {
        **config.fingerprint_keys("prepare"),
        "prompts.template": TEMPLATE_VERSION,
        **versions("raypipe", "pillow"),
    }


def _held(run: Run) -> Mapping[str, Any]:
    """What the run was prepared from, or has begun to be: the snapshots of tables among it."""
    names = (CATALOG.listings, CATALOG.truth, CATALOG.seed)
    commits = (run.artifact(name).commit() for name in names)
    return next((commit.fingerprint for commit in commits if commit is not None), {})


def _committed(run: Run, fingerprint: Mapping[str, Any], any_versions: bool) -> Commit | None:
    """The listings' commit, when all three artifacts are committed."""
    names = (CATALOG.seed, CATALOG.truth, CATALOG.listings)
    commits = [
        run.artifact(name).find_commit(fingerprint, any_versions=any_versions) for name in names
    ]
    return commits[-1] if all(commits) else None


def _prepare(
    config: Config,
    run: Run,
    fingerprint: Mapping[str, Any],
    inputs: Inputs,
    hashed: HashedFiles,
) -> Commit:
    listings = inputs.listings
    roles = roles_of(inputs)
    reader = SourceReader(listings, inputs.schema, config.catalog)
    shards = listings.shards(listings.content_stamps(hashed))
    attempt = run.artifact(CATALOG.listings, LISTINGS).attempt(fingerprint)
    with _session(config, shards):
        survey_listings(run, reader, shards)
        _check_absent(run, shards, inputs)
        cap, seed = config.catalog.max_listings, config.run.seed
        choice = choose_pool(reader, shards, roles, cap, seed)
        rows = sum(shard.rows for shard in shards)
        total = rows if choice.last is None else min(rows, len(roles) + (cap or 0))
        prepared = Preparation(attempt, reader, shards, choice, total).prepare()
        members = prepared.members(roles)
        relatives = prepared.relatives(members)
        assignment = assign(
            [*members, *relatives.members.values()],
            run_seed=seed,
            anchor_share=config.catalog.anchor_share,
        )
        for listing_id, detail in assignment.leaks.items():
            prepared.refusals.add(listing_id, LEAKAGE, detail)
        prepared.preparation.check_refused(prepared.refusals)
        _commit_answers(run, fingerprint, inputs, prepared, assignment)
        commit = prepared.commit(assignment, relatives, beyond_cap=rows - total)
    meter = metrics.Meter.of(attempt.artifact)
    meter.count(metrics.LISTINGS, commit.rows)
    meter.count(metrics.QUERIES, sum(commit.counts["queries"].values()))
    meter.count_by(metrics.QUARANTINED, commit.counts["refused"])
    return commit


def _session(config: Config, shards: Sequence[SourceShard]) -> AbstractContextManager[None]:
    """A Ray session, for a catalog that is worth one."""
    return ensure_ray(config.cluster) if len(shards) > 1 else nullcontext()


def _check_absent(run: Run, shards: Sequence[SourceShard], inputs: Inputs) -> None:
    """Raises InputError for ids of the seed or the truth that are not among the listings."""
    for name, source in (("seed", inputs.seed), ("truth", inputs.truth)):
        if absent := absent_listings(run, shards, source.listing_ids):
            raise InputError(
                f"{source.name}: {len(absent)} {name} ids are not among the listings "
                f"(first: '{absent[0]}')"
            )


def _commit_answers(
    run: Run,
    fingerprint: Mapping[str, Any],
    inputs: Inputs,
    prepared: PreparedCatalog,
    assignment: Assignment,
) -> None:
    """Commit what seed and truth say of the listings that stay."""
    answered: list[tuple[Artifact, AnswerFiles, ValueField]] = [
        (run.artifact(CATALOG.seed, SEED), inputs.seed, "answer"),
        (run.artifact(CATALOG.truth, TRUTH), inputs.truth, "value"),
    ]
    named = prepared.named
    for artifact, source, value_field in answered:
        ids = assignment.splits.keys() & source.listing_ids
        verticals = {listing_id: named[listing_id].vertical for listing_id in ids}
        answers = answers_of(source, verticals, inputs.schema, value_field)
        commit_answers(artifact, fingerprint, answers, ids)
