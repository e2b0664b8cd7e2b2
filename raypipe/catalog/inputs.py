"""Everything that a catalog brings: listings, attribute schema, annotated seed, verified truth."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from raypipe.attributes.schema import AttributeSchema, load_attribute_schema
from raypipe.catalog.answer_files import AnswerFiles, open_answers
from raypipe.catalog.hashed_files import HashedFiles
from raypipe.catalog.sources import (
    LISTINGS_COLUMNS,
    SEED_COLUMNS,
    SPLITS_COLUMNS,
    SPLITS_FILE,
    TRUTH_COLUMNS,
    Column,
    Source,
    open_source,
)
from raypipe.catalog.splits import Role
from raypipe.catalog.tables import Tables
from raypipe.config import CatalogConfig
from raypipe.errors import InputError


@dataclass(frozen=True)
class Inputs:
    """The opened and checked files of a catalog.

    ``splits`` is the file of that name beside the truth file, if there is one: it says which
    verified listings are eval and which are anchor.
    """

    schema: AttributeSchema
    listings: Source
    seed: AnswerFiles
    truth: AnswerFiles
    splits: Source | None

    def fingerprint(self, hashed: HashedFiles) -> dict[str, Any]:
        """What the files hold, whatever they are called and wherever they are.

        Args:
            hashed: the files that were hashed before.
        """
        canonical = json.dumps(self.schema.to_json(), sort_keys=True).encode()
        values: dict[str, Any] = {
            "inputs.attribute_schema.sha256": hashlib.sha256(canonical).hexdigest()
        }
        for name in ("listings", "seed", "truth", "splits"):
            source = getattr(self, name)
            if source is not None:
                values |= source.digest(f"inputs.{name}", hashed)
        return values


def open_inputs(config: CatalogConfig, tables: Tables | None = None) -> Inputs:
    """Open and check all files, and all tables if they may be. Raises InputError for the first
    fault."""

    def answers(name: str, columns: tuple[Column, ...]) -> AnswerFiles:
        location = str(getattr(config, name))
        if tables is None:
            return open_answers(location, columns)
        return tables.answers(location, columns, f"inputs.{name}")

    schema = load_attribute_schema(str(config.attribute_schema))
    truth = answers("truth", TRUTH_COLUMNS)
    return Inputs(
        schema=schema,
        listings=_listings(config, tables),
        seed=answers("seed", SEED_COLUMNS),
        truth=truth,
        splits=truth.beside(SPLITS_FILE, SPLITS_COLUMNS),
    )


def _listings(config: CatalogConfig, tables: Tables | None) -> Source:
    location = str(config.listings)
    if tables is None:
        return open_source(location, LISTINGS_COLUMNS, image_roots=config.image_roots)
    return tables.open(location, LISTINGS_COLUMNS, "inputs.listings")


def roles_of(inputs: Inputs) -> dict[str, Role]:
    """The role of every annotated or verified listing; all others are pool.

    Raises:
        InputError: an id that is twice in a file, an id in seed and truth, a truth listing whose
            split is neither eval nor anchor.
    """
    seed, truth = inputs.seed.listing_ids, inputs.truth.listing_ids
    both = sorted(seed & truth)
    if both:
        raise InputError(
            f"{inputs.truth.name}: {len(both)} ids are in the seed and in the truth "
            f"(first: '{both[0]}'); a listing is either annotated or verified"
        )
    roles: dict[str, Role] = dict.fromkeys(seed, "seed")
    return roles | _verified(inputs)


def stated_splits(inputs: Inputs) -> dict[str, str]:
    """What the user's files say of the split of a listing, whatever they call it."""
    stated: dict[str, str] = {}
    for source in (inputs.splits, inputs.truth):  # the truth file's own column has the last word
        for row in source.rows() if source else ():
            if row["split"] is not None:
                stated[row["listing_id"]] = row["split"]
    return stated


def _verified(inputs: Inputs) -> dict[str, Role]:
    stated = stated_splits(inputs)
    return {name: _role(name, stated.get(name, "")) for name in inputs.truth.listing_ids}


def _role(listing_id: str, stated: str) -> Role:
    match stated:
        case "eval":
            return "eval"
        case "anchor":
            return "anchor"
        case "":
            return "truth"
    raise InputError(
        f"'{listing_id}' has verified values, so its split must be eval or anchor, not '{stated}'"
    )
