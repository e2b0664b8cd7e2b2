"""What a catalog holds, counted while its rows go by."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from raypipe.attributes.schema import fold
from raypipe.catalog.listings import seller_values
from raypipe.catalog.sources import Source
from raypipe.ingest.hosts import Server, server_of
from raypipe.ingest.photos import is_address
from raypipe.security.identifiers import bounded

# Beyond this an attribute is no choice among values, and counting on would only take memory.
MAX_DISTINCT = 2000


@dataclass
class Values:
    """What sellers say of one attribute in one vertical.

    ``spellings`` counts them below their folded form, in which spellings of one value are equal;
    ``overflown`` says that there were too many to go on counting.
    """

    total: int = 0
    spellings: dict[str, Counter[str]] = field(default_factory=dict)
    overflown: bool = False

    def add(self, text: str) -> None:
        self.total += 1
        text = bounded(text)
        folded = fold(text)
        if folded not in self.spellings and len(self.spellings) >= MAX_DISTINCT:
            self.overflown = True
            return
        self.spellings.setdefault(folded, Counter())[text] += 1


@dataclass
class Survey:
    """Listings by vertical, sellers' values by (vertical, attribute), images and the hosts that
    serve those named by address."""

    verticals: Counter[str] = field(default_factory=Counter)
    values: dict[tuple[str, str], Values] = field(default_factory=dict)
    images: int = 0
    hosts: Counter[Server] = field(default_factory=Counter)
    missing: list[str] = field(default_factory=list)

    def add(self, vertical: str, sellers: Mapping[str, str], images: Iterable[str]) -> None:
        vertical = vertical.strip()
        self.verticals[vertical] += 1
        for name, text in sellers.items():
            if name.strip() and text.strip():
                self.values.setdefault((vertical, name.strip()), Values()).add(text.strip())
        for image in images:
            self.images += 1
            if is_address(image):
                self.hosts[server_of(image)] += 1

    def attributes(self, vertical: str) -> dict[str, Values]:
        """The attributes that sellers name in a vertical, in the order in which they were met."""
        return {name: found for (owner, name), found in self.values.items() if owner == vertical}


def survey_source(source: Source) -> Survey:
    """Count a Parquet catalog whose columns were checked; images in it are not read.

    Raises:
        InputError: a doubled listing_id, a truncated file.
    """
    _ = source.listing_ids
    survey = Survey()
    for path, footer in zip(source.files, source.footers, strict=True):
        wanted = {"listing_id", "vertical", "seller_values"}
        if footer.names_images:
            wanted.add("images")
        columns = tuple(column for column in source.columns if column.name in wanted)
        for row in replace(source, files=(path,), columns=columns).rows():
            images = [image for image in row.get("images") or () if image]
            survey.add(row["vertical"] or "", seller_values(row["seller_values"]), images)
    return survey
