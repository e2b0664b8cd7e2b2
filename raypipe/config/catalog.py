"""What a run is made from: the catalog and its images."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from raypipe.config.section import RESOURCE, UPSTREAM, Section, changes


class EmbeddedCatalogConfig(Section):
    stages = ("prepare",)
    seed: int = 20260101
    """Seed of the renderings; another seed is another catalog."""
    num_pool: int = Field(480, ge=1)
    """Unlabeled listings."""
    num_eval: int = Field(320, ge=1)
    """Held-out listings with verified values (about four queries each)."""
    num_anchor: int = Field(96, ge=1)
    """Listings of the small trusted split that guards rounds."""
    seed_per_vertical: int = Field(10, ge=1)
    """Annotated listings per vertical (paper §2: ten)."""


class FetchConfig(Section):
    stages = ("prepare", "images")
    schemes: tuple[Literal["https", "http", "s3", "gs"], ...] = ("https",)
    """Schemes of image URIs that are fetched; any other is a skipped image."""
    hosts: tuple[str, ...] = ()
    """Hosts (and, for s3 and gs, buckets) that are fetched from: 'cdn.shop.com', or '*.shop.com'
    for all below it. None are allowed until they are named."""
    max_bytes: int = Field(20_000_000, ge=1)
    """An image larger than this is given up while it is read."""
    max_redirects: int = Field(3, ge=0)
    """Redirects followed, each to an allowed scheme, host and public address."""
    concurrency: int = Field(32, ge=1, json_schema_extra=RESOURCE)
    """Images fetched at once by one preparing task."""
    attempts: int = Field(4, ge=1, json_schema_extra=RESOURCE)
    """Tries of an image whose server is busy, slow or broken (429, 5xx, time-outs), the last of
    which begins at most five minutes after the first. A host that gives none of twenty images in
    a row, nor any other answer, is left alone for ten seconds, and longer each time (host_away)."""
    timeout_s: float = Field(20, gt=0, json_schema_extra=RESOURCE)
    """How long a server may be silent, in seconds."""


_IMAGES = changes("prepare", "images")
_IMAGE_FORM = changes("prepare", "images", "export")


class CatalogConfig(Section):
    stages = ("prepare",)
    embedded: EmbeddedCatalogConfig | None = None
    """Render the embedded catalog with these sizes; None reads the user's files below."""
    listings: str | None = Field(None, json_schema_extra=UPSTREAM)
    """Parquet file or directory: listing_id, vertical, images, and optionally group_id and
    seller_values. Or a table, as seed and truth may be: delta:<path or uri>, lance:<path or uri> or
    iceberg:<namespace>.<table>, with @<snapshot> at the end or, without, as it is when the run
    begins. Its images are bytes or URIs."""
    iceberg: dict[str, str] = Field({}, json_schema_extra=RESOURCE)
    """Properties of the catalog of Iceberg's tables (type, uri, warehouse …; name is 'default');
    empty takes pyiceberg's own configuration. They are written to the run's directory, so keys and
    passwords are refused: they belong in pyiceberg's environment variables."""
    attribute_schema: str | None = Field(None, json_schema_extra=UPSTREAM)
    """YAML or Parquet: vertical, attribute, description, values, aliases."""
    seed: str | None = Field(None, json_schema_extra=UPSTREAM)
    """Parquet file or directory of annotated listings (listing_id, answers: attribute, reasoning,
    answer). Only a directory can take up what jobs/review.py imports."""
    truth: str | None = Field(None, json_schema_extra=UPSTREAM)
    """Parquet file or directory of verified listings (listing_id, answers: attribute, value,
    optionally split): eval and anchor."""
    anchor_share: float = Field(0.2, ge=0, le=0.9)
    """Share (0-1) of the verified listings that guards rounds instead of being evaluated on."""
    max_listings: int | None = Field(None, ge=1)
    """Cap on unlabeled listings, chosen by hash of the id; None takes all."""
    image_size: int = Field(224, ge=28, multiple_of=4, json_schema_extra=_IMAGE_FORM)
    """Side in pixels that every image is squashed to (paper §3: 224): a multiple of 28 for Qwen2-VL
    and Qwen2.5-VL, of 32 for Qwen3-VL."""
    max_images: int = Field(5, ge=1, le=16, json_schema_extra=_IMAGE_FORM)
    """The first so many decodable, distinct images of a listing are used (paper: five), of at most
    a hundred that are looked at, within five minutes and until five could not be fetched."""
    max_image_pixels: int = Field(50_000_000, ge=1, json_schema_extra=_IMAGES)
    """An image with more pixels than this is refused before it is decoded."""
    image_roots: tuple[str, ...] = Field((), json_schema_extra=_IMAGES)
    """Directories below which images that listings name by path may lie, beside the directory of
    the listings' own Parquet file: links that lead elsewhere, '..' and absolute paths are refused.
    Of labeling.listings and evals.listings too. It changes the outcome, as fetch.hosts does."""
    fetch: FetchConfig = FetchConfig()
    """How images that the listings name by URI are fetched."""
    broken_images: Literal["skip", "refuse"] = Field("skip", json_schema_extra=_IMAGES)
    """What an image that cannot be fetched or decoded does: it is left out (a listing without any
    is refused), or its listing is refused."""
    max_quarantined: float = Field(0.05, ge=0, le=1)
    """Share (0-1) of refused listings above which prepare stops."""
    rows_per_file: int = Field(256, ge=1, json_schema_extra=RESOURCE)
    """Listings per Parquet file of the prepared catalog."""

    @field_validator("image_roots")
    @classmethod
    def _named(cls, roots: tuple[str, ...]) -> tuple[str, ...]:
        if not all(roots):
            raise ValueError("an empty path is no directory; '.' is where the command is started")
        return roots

    @model_validator(mode="after")
    def _one_source(self) -> "CatalogConfig":
        if (self.embedded is None) == (self.listings is None):
            raise ValueError("set exactly one of catalog.embedded and catalog.listings")
        if self.listings is not None:
            for name in ("attribute_schema", "seed", "truth"):
                if getattr(self, name) is None:
                    raise ValueError(f"catalog.{name} is needed beside catalog.listings")
        return self
