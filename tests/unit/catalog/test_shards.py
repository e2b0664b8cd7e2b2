"""How files are cut into shards."""

from hypothesis import given
from hypothesis import strategies as st

from raypipe.catalog.shards import (
    LEAST_ROWS,
    MOST_ROWS,
    Piece,
    RowGroup,
    SourceFile,
    SourceShard,
    cut,
)

row_groups = st.lists(
    st.builds(RowGroup, st.integers(0, 120_000), st.integers(0, 10_000_000)), max_size=4
)


@st.composite
def catalogs(draw: st.DrawFn) -> list[SourceFile]:
    groups = draw(st.lists(row_groups, max_size=30))
    return [
        SourceFile(f"{number:04}.parquet", f"stamp {number}", tuple(found))
        for number, found in enumerate(groups)
    ]


def small(name: str, rows: int = 900) -> SourceFile:
    return SourceFile(name, f"stamp of {name}", (RowGroup(rows, 1000 * rows),))


def spans(pieces: tuple[Piece, ...]) -> list[tuple[str, int, int, int]]:
    return [(piece.path, piece.group, piece.first, piece.first + piece.rows) for piece in pieces]


@given(catalogs())
def test_every_row_is_in_one_shard_once(files: list[SourceFile]) -> None:
    pieces = sorted(span for shard in cut(files) for span in spans(shard.pieces))
    at: dict[tuple[str, int], int] = {}
    for path, group, first, end in pieces:
        assert first == at.get((path, group), 0)
        at[path, group] = end
    rows = {
        (file.path, number): group.rows
        for file in files
        for number, group in enumerate(file.groups)
        if group.rows
    }
    assert at == rows


@given(catalogs())
def test_shards_have_no_more_rows_than_fit_and_keys_of_their_own(files: list[SourceFile]) -> None:
    shards = cut(files)
    assert len({shard.key for shard in shards}) == len(shards)
    for shard in shards:
        whole = len({span[:2] for span in spans(shard.pieces)}) == 1
        assert shard.rows <= 2 * MOST_ROWS or whole


@given(catalogs(), st.integers(0, 29))
def test_a_changed_file_changes_the_shards_with_its_rows(
    files: list[SourceFile], number: int
) -> None:
    changed = [
        SourceFile(file.path, "another stamp", file.groups) if place == number else file
        for place, file in enumerate(files)
    ]
    before, after = cut(files), cut(changed)
    for one, other in zip(before, after, strict=True):
        touched = any(piece.path == f"{number:04}.parquet" for piece in one.pieces)
        assert (one.key == other.key) == (not touched)


def test_a_new_file_between_others_changes_few_shards() -> None:
    files = [small(f"{number:05}.parquet") for number in range(0, 2000, 2)]
    new = [*files[:100], small("00201.parquet"), *files[100:]]
    before, after = ({shard.key for shard in cut(some)} for some in (files, new))
    assert len(before) > 30
    assert len(after - before) < 10
    assert all(shard.rows >= LEAST_ROWS for shard in cut(files)[:-1])


def test_a_large_row_group_is_read_in_slices_unless_its_rows_are_large() -> None:
    (light,) = (SourceFile("a", "1", (RowGroup(1_000_000, 50 << 20),)),)
    sizes = [shard.rows for shard in cut([light])]
    assert sum(sizes) == 1_000_000
    assert max(sizes) - min(sizes) <= 1
    heavy = SourceFile("a", "1", (RowGroup(1_000_000, 50 << 40),))
    (whole,) = cut([heavy])
    assert [piece.rows for piece in whole.pieces] == [1_000_000]
    assert list(whole.pieces[0].slices()) == list(whole.pieces)


def test_slices_of_a_piece_hold_its_rows_in_order() -> None:
    piece = Piece("a", 3, 100, 2500, 1000)
    found = [(one.first, one.rows) for one in piece.slices(1000)]
    assert found == [(100, 1000), (1100, 1000), (2100, 500)]
    assert SourceShard("key", (piece,)).rows == 2500
