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
from raypipe.attributes import load_attribute_schema
from raypipe.catalog.snapshots import parse
from raypipe.catalog.sources import LISTINGS_COLUMNS, open_source
from raypipe.errors import ConfigError, InputError, StorageError
from raypipe.intake.answers import Catalog, Kind, write_answers
from raypipe.intake.columns import Wishes, map_columns
from raypipe.intake.config_draft import Place, draft_config, run_name
from raypipe.intake.console import IntakeConsole
from raypipe.intake.listings import Intake, Taker
from raypipe.intake.photos import Photos
from raypipe.intake.refused import Refusals
from raypipe.intake.schema_draft import draft_schema
from raypipe.intake.sheets import JSON, SEPARATED, open_sheet
from raypipe.intake.survey import Survey, survey_source

CONFIG, SCHEMA, LISTINGS, REFUSED = (
    "catalog.yaml", "schema.yaml", "listings.parquet", "listings.refused.csv",
)  # fmt: skip
_OTHER: dict[Kind, Kind] = {"seed": "truth", "truth": "seed"}


@dataclass(frozen=True)
class Wanted:
    """What the user asked for; None finds out. ``listings_only`` leaves configuration and schema
    as they are."""

    target: Path
    force: bool = False
    listings_only: bool = False
    images: Path | None = None
    columns: Wishes = field(default_factory=Wishes)
    embed: bool = False
    encoding: str | None = None
    delimiter: str | None = None
    gpus: int | None = None


def take_listings(listings: str, wanted: Wanted, console: IntakeConsole) -> None:
    """Write the configuration, the schema and, of a sheet, the listings.

    Raises:
        ConfigError: a file is there already, a column that was named is not, or the listings are a
            table.
        InputError: the listings cannot be read or used.
        StorageError: a file cannot be written.
    """
    if parse(listings) is not None:
        raise ConfigError(
            f"{listings} is a table, which is read as it is: name it in catalog.listings (and "
            f"labeling.listings) of {CONFIG}, and write {SCHEMA} for it; 'raypipe init' with a CSV "
            "of some of its listings drafts both"
        )
    drafts = [] if wanted.listings_only else [CONFIG, SCHEMA]
    if not _is_parquet(listings):
        intake = _take_sheet(Path(listings), drafts, wanted, console)
        survey, image_roots, named = intake.survey, intake.image_roots, LISTINGS
    else:
        _refuse_sheet_options(wanted)
        _check_free(wanted, drafts)
        survey = survey_source(open_source(listings, LISTINGS_COLUMNS))
        if not survey.verticals:
            raise InputError(f"{listings} holds no listings")
        console.source(listings)
        console.found(survey)
        image_roots, named = (), _named(listings, wanted.target)
    if drafts:
        _write_drafts(survey, named, image_roots, wanted, console)


def take_answers(path: Path, kind: Kind, wanted: Wanted, console: IntakeConsole) -> None:
    """Write ``seed/seed.parquet`` or ``truth/truth.parquet`` from a sheet.

    Raises:
        ConfigError: it is there already, or the configuration beside it is wrong.
        InputError: the sheet cannot be read or used.
        StorageError: the file cannot be written.
    """
    target, name, refused = wanted.target, f"{kind}/{kind}.parquet", f"{kind}.refused.csv"
    sheet = open_sheet(path, wanted.encoding, wanted.delimiter)
    _check_free(wanted, [name, refused], path)
    catalog = _catalog(target, kind)
    console.source(str(path))
    with (
        _writing(target),
        TemporaryDirectory(prefix=".raypipe-", dir=target) as folder,
        Refusals(target / refused, sheet.columns) as refusals,
    ):
        partial = Path(folder) / "answers.parquet"
        identifier = wanted.columns.identifier
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


def _take_sheet(
    path: Path, drafts: Sequence[str], wanted: Wanted, console: IntakeConsole
) -> Intake:
    sheet = open_sheet(path, wanted.encoding, wanted.delimiter)
    photos = Photos(wanted.images) if wanted.images is not None else None
    columns = map_columns(sheet.columns, wanted.columns, str(path), has_files=photos is not None)
    _check_free(wanted, [LISTINGS, REFUSED, *drafts], path)
    console.source(str(path))
    console.columns(columns)
    target = wanted.target
    with _writing(target), Refusals(target / REFUSED, sheet.columns) as refusals:
        taker = Taker(sheet, columns, photos, target, embed=wanted.embed)
        intake = taker.write(target / LISTINGS, refusals)
    console.found(intake.survey)
    console.images(intake)
    console.wrote(target / LISTINGS, f"{intake.survey.verticals.total():,} listings")
    console.refused(refusals)
    return intake


def _write_drafts(
    survey: Survey,
    listings: str,
    image_roots: tuple[str, ...],
    wanted: Wanted,
    console: IntakeConsole,
) -> None:
    target = wanted.target
    gpus = gpus_here() if wanted.gpus is None else wanted.gpus
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
    if not gpus:
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


def _refuse_sheet_options(wanted: Wanted) -> None:
    sheet_alone = (wanted.images, wanted.encoding, wanted.delimiter)
    if any(sheet_alone) or wanted.embed or wanted.columns != Wishes() or wanted.listings_only:
        raise ConfigError(
            "a Parquet file is taken as it is, with columns listing_id, vertical and images: "
            "options about columns, images and encoding are for sheets alone"
        )


def _check_free(wanted: Wanted, names: Sequence[str], source: Path | None = None) -> None:
    """Refuse to write over files; with force, remove what an earlier call refused.

    The source itself is never written over.
    """
    if source is not None and source.resolve() in [(wanted.target / n).resolve() for n in names]:
        raise ConfigError(f"{source} is what would be written; rename it first")
    there = [name for name in names if (wanted.target / name).exists()]
    if there and not wanted.force:
        named = ", ".join(str(wanted.target / name) for name in there)
        drafts = CONFIG in names
        raise ConfigError(
            f"{named} exists already; --force writes over it"
            + (" (and keeps catalog.yaml and schema.yaml as .bak)" if drafts else "")
            + ", another --target beside it"
            + (", and --listings-only keeps catalog.yaml and schema.yaml" if drafts else "")
        )
    for name in there:
        if name.endswith(".refused.csv"):
            (wanted.target / name).unlink()


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


def _catalog(target: Path, kind: Kind) -> Catalog | None:
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
    if parse(location) is not None:
        return None
    listings = open_source(_from(target, location), LISTINGS_COLUMNS)
    wanted = tuple(c for c in listings.columns if c.name in ("listing_id", "vertical"))
    rows = replace(listings, columns=wanted).rows()
    return {row["listing_id"]: row["vertical"] for row in rows}


def _from(target: Path, location: str) -> str:
    """A location of a configuration that is to be used in its own directory."""
    return location if "://" in location else str(target / location)


def _ids_in(directory: Path) -> set[str]:
    """The listing ids of all Parquet files in a directory; none where there is no directory."""
    only_ids = tuple(column for column in LISTINGS_COLUMNS if column.name == "listing_id")
    sources = (open_source(str(path), only_ids) for path in directory.glob("*.parquet"))
    return {row["listing_id"] for source in sources for row in source.rows()}
