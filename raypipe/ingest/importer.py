"""Takes a user's catalog in: reads what there is, writes the files that raypipe reads.

Everything that would be written is checked for being there before the first byte is.
"""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from raypipe import config as configuration
from raypipe.attributes.schema import load_attribute_schema
from raypipe.catalog.snapshots import parse_location
from raypipe.catalog.sources import LISTINGS_COLUMNS, open_source
from raypipe.errors import ConfigError, InputError, StorageError
from raypipe.ingest.answers import AnswerKind, Catalog, write_answers
from raypipe.ingest.columns import ColumnOptions, map_columns
from raypipe.ingest.config_draft import Place, draft_config, drafted_model, run_name
from raypipe.ingest.console import InitConsole
from raypipe.ingest.listings import ImportResult, ListingImporter
from raypipe.ingest.photos import Photos
from raypipe.ingest.refused import Refusals
from raypipe.ingest.schema_draft import draft_schema
from raypipe.ingest.sheets import JSON, SEPARATED, open_sheet
from raypipe.ingest.survey import Survey, survey_source

CONFIG, SCHEMA, LISTINGS, REFUSED = (
    "catalog.yaml", "schema.yaml", "listings.parquet", "listings.refused.csv",
)  # fmt: skip
_OTHER: dict[AnswerKind, AnswerKind] = {"seed": "truth", "truth": "seed"}


@dataclass(frozen=True)
class InitOptions:
    """What the user asked for; None finds out. ``listings_only`` leaves configuration and schema
    as they are."""

    target: Path
    force: bool = False
    listings_only: bool = False
    images: Path | None = None
    columns: ColumnOptions = field(default_factory=ColumnOptions)
    embed: bool = False
    encoding: str | None = None
    delimiter: str | None = None
    gpus: int | None = None


def import_listings(listings: str, options: InitOptions, console: InitConsole) -> None:
    """Write the configuration, the schema and, of a sheet, the listings.

    Raises:
        ConfigError: a file is there already, a column that was named is not, or the listings are a
            table.
        InputError: the listings cannot be read or used.
        StorageError: a file cannot be written.
    """
    if parse_location(listings) is not None:
        raise ConfigError(
            f"{listings} is a table, which is read as it is: name it in catalog.listings (and "
            f"labeling.listings) of {CONFIG}, and write {SCHEMA} for it; 'raypipe init' with a CSV "
            "of some of its listings drafts both"
        )
    drafts = [] if options.listings_only else [CONFIG, SCHEMA]
    if not _is_parquet(listings):
        result = _import_sheet(Path(listings), drafts, options, console)
        survey, image_roots, named = result.survey, result.image_roots, LISTINGS
    else:
        _refuse_sheet_options(options)
        _check_free(options, drafts)
        survey = survey_source(open_source(listings, LISTINGS_COLUMNS))
        if not survey.verticals:
            raise InputError(f"{listings} holds no listings")
        console.source(listings)
        console.found(survey)
        image_roots, named = (), _named(listings, options.target)
    if drafts:
        _write_drafts(survey, named, image_roots, options, console)


def import_answers(
    path: Path, kind: AnswerKind, options: InitOptions, console: InitConsole
) -> None:
    """Write ``seed/seed.parquet`` or ``truth/truth.parquet`` from a sheet.

    Raises:
        ConfigError: it is there already, or the configuration beside it is wrong.
        InputError: the sheet cannot be read or used.
        StorageError: the file cannot be written.
    """
    target, name, refused = options.target, f"{kind}/{kind}.parquet", f"{kind}.refused.csv"
    sheet = open_sheet(path, options.encoding, options.delimiter)
    _check_free(options, [name, refused], path)
    catalog = _catalog(target, kind)
    console.source(str(path))
    with (
        _writing(target),
        TemporaryDirectory(prefix=".raypipe-", dir=target) as folder,
        Refusals(target / refused, sheet.columns) as refusals,
    ):
        partial = Path(folder) / "answers.parquet"
        identifier = options.columns.identifier
        written = write_answers(
            sheet, kind, partial, refusals, catalog=catalog, identifier=identifier
        )
        (target / kind).mkdir(exist_ok=True)
        partial.replace(target / name)
    console.answers(kind, target / name, written)
    if catalog is None:
        console.note(f"there is no {CONFIG} yet: ids and values were not checked")
    elif catalog.verticals is None:
        console.note(
            "catalog.listings is a table, which is not read here: ids and values were not checked; "
            "raypipe prepare checks them"
        )
    console.refused(refusals)


def _import_sheet(
    path: Path, drafts: Sequence[str], options: InitOptions, console: InitConsole
) -> ImportResult:
    sheet = open_sheet(path, options.encoding, options.delimiter)
    photos = Photos(options.images) if options.images is not None else None
    columns = map_columns(sheet.columns, options.columns, str(path), has_files=photos is not None)
    _check_free(options, [LISTINGS, REFUSED, *drafts], path)
    console.source(str(path))
    console.columns(columns)
    target = options.target
    with _writing(target), Refusals(target / REFUSED, sheet.columns) as refusals:
        taker = ListingImporter(sheet, columns, photos, target, embed=options.embed)
        result = taker.write(target / LISTINGS, refusals)
    console.found(result.survey)
    console.images(result)
    console.wrote(target / LISTINGS, f"{result.survey.verticals.total():,} listings")
    console.refused(refusals)
    return result


def _write_drafts(
    survey: Survey,
    listings: str,
    image_roots: tuple[str, ...],
    options: InitOptions,
    console: InitConsole,
) -> None:
    target = options.target
    gpus = gpus_here() if options.gpus is None else options.gpus
    hosts = tuple(place for place, _ in survey.hosts.most_common())
    draft = draft_schema(survey)
    place = Place(run_name(target.resolve().name), listings, gpus, hosts, image_roots)
    with _writing(target):
        for name, text in ((SCHEMA, draft.text), (CONFIG, draft_config(place))):
            kept = _set_aside(target / name)
            (target / name).write_text(text, encoding="utf-8")
            if kept is not None:
                console.kept(target / name, kept)
    console.wrote(target / SCHEMA, f"{draft.asked:,} attributes to ask; edit it")
    console.drafted(draft)
    console.wrote(target / CONFIG, f"for {gpus} GPUs" if gpus else "no GPU is here")
    if gpus:
        console.base_model(drafted_model(gpus=gpus))
    else:
        console.note(
            "without a GPU it names the embedded nano model, which is for trying the pipeline only "
            "and knows nothing of your goods; --gpus N configures for a machine that has some"
        )
    console.hosts(hosts)


def gpus_here() -> int:
    """The GPUs of this machine that the Nvidia driver names."""
    if shutil.which("nvidia-smi") is None:
        return 0
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def _is_parquet(listings: str) -> bool:
    """Whether listings are to be opened as Parquet; whatever is no sheet says so there."""
    path = Path(listings)
    if "://" in listings or path.is_dir() or path.suffix.lower() == ".parquet":
        return True
    if path.suffix.lower() in (*SEPARATED, *JSON) or not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(4) == b"PAR1"


def _refuse_sheet_options(options: InitOptions) -> None:
    sheet_alone = (options.images, options.encoding, options.delimiter)
    if (
        any(sheet_alone)
        or options.embed
        or options.columns != ColumnOptions()
        or options.listings_only
    ):
        raise ConfigError(
            "a Parquet file is taken as it is, with columns listing_id, vertical and images: "
            "options about columns, images and encoding are for sheets alone"
        )


def _check_free(options: InitOptions, names: Sequence[str], source: Path | None = None) -> None:
    """Refuse to write over files; with force, remove what an earlier call refused.

    The source itself is never written over.
    """
    if source is not None and source.resolve() in [(options.target / n).resolve() for n in names]:
        raise ConfigError(f"{source} is what would be written; rename it first")
    there = [name for name in names if (options.target / name).exists()]
    if there and not options.force:
        named = ", ".join(str(options.target / name) for name in there)
        drafts = CONFIG in names
        raise ConfigError(
            f"{named} exists already; --force writes over it"
            + (" (and keeps catalog.yaml and schema.yaml as .bak)" if drafts else "")
            + ", another --target beside it"
            + (", and --listings-only keeps catalog.yaml and schema.yaml" if drafts else "")
        )
    for name in there:
        if name.endswith(".refused.csv"):
            (options.target / name).unlink()


def _set_aside(path: Path) -> Path | None:
    """Give a draft that people may have edited another name, which none has; None without one."""
    if not path.exists():
        return None
    names = (
        path.with_name(f"{path.name}.bak{number if number > 1 else ''}") for number in count(1)
    )
    kept = next(name for name in names if not name.exists())
    path.rename(kept)
    return kept


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        target.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error}") from error


def _named(listings: str, target: Path) -> str:
    """Listings as the configuration names them: relative where they lie below it."""
    if "://" in listings:
        return listings
    absolute = Path(listings).resolve()
    below = absolute.is_relative_to(target.resolve())
    return str(absolute.relative_to(target.resolve()) if below else absolute)


def _catalog(target: Path, kind: AnswerKind) -> Catalog | None:
    """What is there to hold answers against; None before there is a configuration."""
    if not (target / CONFIG).is_file():
        return None
    config = configuration.load(target / CONFIG).catalog
    if config.listings is None or config.attribute_schema is None:
        raise ConfigError(f"{target / CONFIG} names no catalog.listings")
    return Catalog(
        schema=load_attribute_schema(_from(target, config.attribute_schema)),
        verticals=_verticals(target, config.listings),
        elsewhere=_ids_in(target / _OTHER[kind]),
    )


def _verticals(target: Path, location: str) -> dict[str, str] | None:
    """The vertical of every listing; None of a table, which only Ray reads."""
    if parse_location(location) is not None:
        return None
    listings = open_source(_from(target, location), LISTINGS_COLUMNS)
    options = tuple(c for c in listings.columns if c.name in ("listing_id", "vertical"))
    rows = replace(listings, columns=options).rows()
    return {row["listing_id"]: row["vertical"] for row in rows}


def _from(target: Path, location: str) -> str:
    """A location of a configuration that is to be used in its own directory."""
    return location if "://" in location else str(target / location)


def _ids_in(directory: Path) -> set[str]:
    """The listing ids of all Parquet files in a directory; none where there is no directory."""
    only_ids = tuple(column for column in LISTINGS_COLUMNS if column.name == "listing_id")
    sources = (open_source(str(path), only_ids) for path in directory.glob("*.parquet"))
    return {row["listing_id"] for source in sources for row in source.rows()}
