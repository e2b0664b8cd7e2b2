"""The ``prepare`` stage: the user's catalog as listings, seed and truth of the run.

Every image is decoded once. Prepared listings wait in a spill file until all identities are known;
then the splits are settled, leaks refused, and the three artifacts committed, listings last.
"""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raypipe.attributes.prompts import TEMPLATE_VERSION
from raypipe.attributes.schema import AttributeSchema
from raypipe.catalog.answer_files import AnswerFiles
from raypipe.catalog.answers import ValueField, answers_of, commit_answers
from raypipe.catalog.inputs import Inputs, open_inputs, roles_of
from raypipe.catalog.listings import RefusedListing, quarantine_rows
from raypipe.catalog.prepared import PreparedCatalog, check_quarantined_share, prepare_rows
from raypipe.catalog.sources import Source
from raypipe.catalog.spill import Spill
from raypipe.catalog.splits import assign
from raypipe.catalog.tables import Tables
from raypipe.config import CatalogConfig, Config, EmbeddedCatalogConfig
from raypipe.errors import InputError
from raypipe.runtime import metrics
from raypipe.schemas import LISTINGS, QUARANTINE, SEED, TRUTH, Split
from raypipe.store.artifacts import Artifact, Attempt, Run
from raypipe.store.lease import lease
from raypipe.store.manifest import Commit, versions
from raypipe.store.paths import ATTRIBUTE_SCHEMA, CATALOG, Paths
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
    fingerprint = _fingerprint(config) | inputs.fingerprint()
    committed = _committed(run, fingerprint, any_versions)
    if committed is not None:
        return committed
    with lease(run, CATALOG.listings):
        committed = _committed(run, fingerprint, any_versions)
        return committed or _prepare(config, run, fingerprint, inputs)


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
    fingerprint = {
        **config.fingerprint_keys("images"),
        **listings.digest("inputs.listings"),
        **truth.digest("inputs.truth"),
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
    absent = sorted(roles.keys() - listings.listing_ids)
    if absent:
        raise InputError(
            f"{truth.name}: {len(absent)} ids are not among the listings (first: '{absent[0]}')"
        )
    attempt = artifact.attempt(fingerprint)
    with tempfile.TemporaryDirectory(prefix="raypipe-labeled-") as directory:
        with Spill(Path(directory) / "listings.arrow") as spill:
            prepared_catalog = prepare_rows(listings, schema, roles, config.catalog, spill)
        answers = answers_of(truth, prepared_catalog.verticals, schema, "value")
        commit_answers(
            run.artifact(scope.truth, TRUTH),
            fingerprint,
            answers,
            prepared_catalog.verticals,
        )
        tables = spill.tables(
            dict.fromkeys(prepared_catalog.verticals, EVAL), config.catalog.rows_per_file
        )
        attempt.commit(
            expected=roles, counts=_write_listings(attempt, tables, prepared_catalog, schema)
        )
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
        return _prepare(config, run, fingerprint, inputs)


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


def _prepare(config: Config, run: Run, fingerprint: Mapping[str, Any], inputs: Inputs) -> Commit:
    attempt = run.artifact(CATALOG.listings, LISTINGS).attempt(fingerprint)
    roles = roles_of(inputs, config.catalog.max_listings, config.run.seed)
    with tempfile.TemporaryDirectory(prefix="raypipe-prepare-") as directory:
        with Spill(Path(directory) / "listings.arrow") as spill:
            prepared_catalog = prepare_rows(
                inputs.listings, inputs.schema, roles, config.catalog, spill
            )
        splits = _settle(prepared_catalog, config)
        check_quarantined_share(
            prepared_catalog.refused, len(roles), config.catalog.max_quarantined
        )
        answered: list[tuple[Artifact, AnswerFiles, ValueField]] = [
            (run.artifact(CATALOG.seed, SEED), inputs.seed, "answer"),
            (run.artifact(CATALOG.truth, TRUTH), inputs.truth, "value"),
        ]
        for artifact, source, value_field in answered:
            ids = splits.keys() & source.listing_ids
            verticals = {listing_id: prepared_catalog.verticals[listing_id] for listing_id in ids}
            answers = answers_of(source, verticals, inputs.schema, value_field)
            commit_answers(artifact, fingerprint, answers, ids)
        tables = spill.tables(splits, config.catalog.rows_per_file)
        counts = _write_listings(attempt, tables, prepared_catalog, inputs.schema)
        counts["beyond_cap"] = len(inputs.listings.listing_ids) - len(roles)
        commit = attempt.commit(expected=roles, counts=counts)
    meter = metrics.Meter.of(attempt.artifact)
    meter.count(metrics.LISTINGS, commit.rows)
    meter.count(metrics.QUERIES, sum(counts["queries"].values()))
    meter.count_by(metrics.QUARANTINED, counts["refused"])
    return commit


def _settle(prepared_catalog: PreparedCatalog, config: Config) -> dict[str, Split]:
    """The split of every listing that stays; leaks join the refused."""
    assignment = assign(
        prepared_catalog.members, run_seed=config.run.seed, anchor_share=config.catalog.anchor_share
    )
    for listing_id, detail in sorted(assignment.leaks.items()):
        prepared_catalog.refused.append(RefusedListing(listing_id, LEAKAGE, detail, {}))
    return dict(assignment.splits)


def _write_listings(
    attempt: Attempt,
    tables: Iterable[pa.Table],
    prepared_catalog: PreparedCatalog,
    schema: AttributeSchema,
) -> dict[str, Any]:
    """Write the tables, what was refused and the schema, and count."""
    listings: Counter[str] = Counter()
    queries: Counter[str] = Counter()
    images = 0
    for table in tables:
        attempt.write(table)
        splits = table.column("split").to_pylist()
        listings.update(splits)
        asked = pc.list_value_length(table.column("queries")).to_pylist()
        for split, number in zip(splits, asked, strict=True):
            queries[split] += number
        images += pc.sum(pc.list_value_length(table.column("images"))).as_py()
    attempt.write_json(ATTRIBUTE_SCHEMA, schema.to_json())
    if prepared_catalog.refused:
        attempt.write(QUARANTINE.from_rows(quarantine_rows(prepared_catalog.refused)), "quarantine")
    return {
        "listings": dict(listings),
        "queries": dict(queries),
        "images": images,
        "images_skipped": dict(prepared_catalog.skipped),
        "refused": dict(Counter(listing.reason for listing in prepared_catalog.refused)),
    }
