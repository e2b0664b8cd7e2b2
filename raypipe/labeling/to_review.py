"""The labels that people should look at, with their listings."""

import logging
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

from raypipe.attributes.schema import AttributeSchema
from raypipe.catalog.distributed import CatalogReader, PreparedReader, SourceReader
from raypipe.config import Config
from raypipe.errors import RaypipeError
from raypipe.labeling.label_versions import newest_published, request_of
from raypipe.labeling.lookup import find_listings
from raypipe.labeling.opening import reopen_catalog
from raypipe.review.tasks import export_review
from raypipe.schemas import LISTINGS
from raypipe.store.artifacts import Run
from raypipe.store.paths import CATALOG
from raypipe.store.runs import exports_of

logger = logging.getLogger("raypipe.labeling")


def export_labels(config: Config, run: Run) -> Path | None:
    """Export the newest labels for people as Label Studio tasks, below the run's exports; None
    without labels."""
    found = newest_published(run)
    if found is None:
        return None
    labels, rule = found
    scope = labels.name.rpartition("/")[0]
    target, labeling = exports_of(config, run) / scope, config.labeling
    listings = partial(_listings, config, run, scope)
    return export_review(
        labels, rule, listings, target, labeling.num_reviews, labeling.review_order, config.run.seed
    )


def _listings(
    config: Config, run: Run, scope: str, listing_ids: Collection[str]
) -> dict[str, dict[str, Any]]:
    """Labeled listings as people see them; those that can no longer be read are left out."""
    own = run.artifact(CATALOG.listings, LISTINGS)
    try:
        source = reopen_catalog(config, run, scope)
        reader: CatalogReader = PreparedReader(own)
        if source is not None:
            schema = AttributeSchema.from_json(request_of(run, scope).get("schema"))
            reader = SourceReader(source, schema, config.catalog)
        return find_listings(run, reader, listing_ids)
    except RaypipeError as error:
        logger.warning("the listings to review come without images: %s", error)
        return {}
