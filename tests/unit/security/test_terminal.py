"""What strangers write is printed, and never obeyed by a terminal."""

import string
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from raypipe.cli.main import main
from raypipe.errors import MAX_MESSAGE, InputError
from raypipe.runtime import progress
from raypipe.runtime.console import Console, plain_console
from raypipe.security.secrets import redacted
from raypipe.security.terminal import printable

COMMANDS = "\x1b]0;owned\x07\x1b[2J\x9b2K\x00\r\x7f\u202e\u2066\ud800"


def _commands(text: str) -> set[str]:
    return {letter for letter in COMMANDS if not letter.isprintable()} & set(text)


@given(st.text())
def test_text_without_commands_stays_and_no_command_does(text):
    said = printable(text)
    assert not _commands(said)
    assert not {letter for letter in said if ord(letter) < 0xA0} - set(string.printable)
    if text.isprintable():
        assert said == text


def test_an_error_tells_no_terminal_anything():
    said = str(InputError(f"the column '{COMMANDS}' is missing\nand so is 'ü'"))
    assert not _commands(said)
    assert r"\x1b[2J" in said
    assert said.endswith("\nand so is 'ü'")


def test_consoles_write_commands_and_markup_out(capsys):
    console = plain_console()
    table = Table(COMMANDS)
    table.add_row(COMMANDS)
    console.print(table)
    Console().note(f"{COMMANDS}[/dim]")
    progress.logger.info(f"[/nothing] {COMMANDS}")
    said = capsys.readouterr().out
    assert not _commands(said)
    assert "[/nothing]" in said


def test_init_of_a_sheet_prints_no_command(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    odd = "\x1b[2J"
    (tmp_path / "photos").mkdir()
    Path("sheet.csv").write_text(
        f"listing_id,category,{odd}color\n1,{odd}shoe,red\n2,{odd}shoe,{odd}\n{odd},shoe,blue\n"
    )
    main(["init", "sheet.csv", "--images", "photos"])
    pq.write_table(pa.table({odd: ["x"]}), "odd.parquet")
    assert main(["init", "odd.parquet", "--target", str(tmp_path / "new")]) == 3
    said = capsys.readouterr()
    assert r"\x1b[2J" in said.out + said.err
    assert "\x1b" not in said.out + said.err


def test_a_long_message_is_told_by_its_beginning():
    said = str(InputError(", ".join(f"column{number}" for number in range(100_000))))
    assert len(said) <= MAX_MESSAGE + 1
    assert said.startswith("column0, ")
    assert str(InputError("x" * MAX_MESSAGE)) == "x" * MAX_MESSAGE


def test_a_secret_where_a_message_is_cut_is_not_told():
    for front in range(2 * MAX_MESSAGE - 40, 2 * MAX_MESSAGE + 10):
        assert "SECRET" not in str(InputError(" " * front + "password=SECRETSECRETSECRET"))


@pytest.mark.parametrize("part", ["a", "a.a", "=a", "a:", "sk-", "eyJaaaaaaaa.", "bearer ", "%"])
def test_no_text_holds_the_search_for_secrets(part):
    text = part * 100_000  # each letter looked at once for each before it would take an hour
    assert redacted(f"{text} token=abcdefgh").endswith(" token=***")


def test_a_parameter_in_the_value_of_another_is_found():
    assert redacted("location=s3://b?token=abcdefgh x") == "location=s3://b?token=*** x"


def test_the_log_of_a_stage_is_no_markup(capsys):
    Console()
    progress.logger.info("table [/x] at [bold]")
    assert "table [/x] at [bold]" in capsys.readouterr().out
