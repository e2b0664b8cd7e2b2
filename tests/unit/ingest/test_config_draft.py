"""The configuration that ``raypipe init`` drafts."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from raypipe import config as configuration
from raypipe.config import CONFIGS, Config, Section, flatten
from raypipe.ingest.config_draft import Place, draft_config, run_name
from raypipe.ingest.survey import Survey
from tests.fakes.user_sheets import Init, write_parquet


def settings(text: str) -> dict[str, Any]:
    return flatten(configuration.resolve(yaml.safe_load(text)).model_dump())


@pytest.mark.parametrize(("gpus", "shipped"), [(0, "local.yaml"), (2, "qwen2.5-vl-3b.yaml")])
def test_the_configuration_is_the_shipped_one_for_the_users_files(gpus: int, shipped: str) -> None:
    made = settings(draft_config(Place("shop", "listings.parquet", gpus)))
    known = flatten(configuration.load(CONFIGS / shipped).model_dump())
    own = {"run.name", "catalog.listings", "catalog.attribute_schema", "catalog.seed",
           "catalog.truth", "labeling.listings"}  # fmt: skip
    own |= {"sampling.num_actors", "cluster.num_train_workers"} if gpus else set()
    different = {key for key in made if made[key] != known.get(key, made[key])}
    assert {key for key in different if not key.startswith("sweep.")} <= own
    assert made["catalog.listings"] == "listings.parquet"
    if gpus:
        assert (made["sampling.num_actors"], made["cluster.num_train_workers"]) == (2, 2)


@pytest.mark.parametrize("gpus", [0, 4])
def test_every_key_of_the_configuration_has_a_comment_above(gpus: int) -> None:
    lines = draft_config(Place("shop", "listings.parquet", gpus)).splitlines()
    keys = [
        number
        for number, line in enumerate(lines)
        if re.match(r"  (  )?#?[a-z_]+:", line) and not _inside_a_value(lines, number)
    ]
    assert len(keys) > 40
    for number in keys:
        if not lines[number].strip().endswith("fetch:"):
            assert lines[number - 1].strip().startswith("# "), lines[number]


def _inside_a_value(lines: list[str], number: int) -> bool:
    """Whether a line is of the mapping that a key such as sampling.engine is."""
    above = lines[number - 1]
    depth = len(lines[number]) - len(lines[number].lstrip())
    while not re.match(r"\s*(#|[a-z_]+:$)", above) and number > 1:
        number -= 1
        above = lines[number - 1]
    opens = bool(re.match(r"\s+[a-z_]+:$", above))
    return opens and depth > len(above) - len(above.lstrip()) and "fetch" not in above


@pytest.mark.parametrize("gpus", [0, 4])
def test_what_is_commented_out_is_the_default_and_can_be_switched_on(gpus: int) -> None:
    text = draft_config(Place("shop", "listings.parquet", gpus))
    switched = re.sub(r"^(\s*)#(?=[a-z_]+:)", r"\1", text, flags=re.MULTILINE)
    assert switched != text
    assert settings(switched) == settings(text)


def test_comments_on_unset_keys_are_the_keys_own_docstrings() -> None:
    text = draft_config(Place("shop", "listings.parquet", 0))
    words = " ".join(text.replace("#", " ").split())
    section = Config.model_fields["rounds"].annotation
    assert isinstance(section, type)
    assert issubclass(section, Section)
    description = section.model_fields["max_anchor_drop"].description
    assert description is not None
    assert " ".join(description.split()) in words


def test_the_licence_of_the_base_model_stands_above_it() -> None:
    words = draft_config(Place("shop", "listings.parquet", 1)).replace("#", " ").split()
    assert "Licence: qwen-research (https://huggingface.co/Qwen" in " ".join(words)


def test_without_a_gpu_it_says_loudly_what_the_nano_is_for() -> None:
    assert "KNOWS NOTHING OF YOUR GOODS" in draft_config(Place("shop", "listings.parquet", 0))
    assert "KNOWS NOTHING" not in draft_config(Place("shop", "listings.parquet", 1))


@pytest.mark.parametrize(("count", "allowed"), [(10, 10), (11, 0)])
def test_few_hosts_are_allowed_and_many_are_the_users_choice(count: int, allowed: int) -> None:
    hosts = tuple(("https", f"cdn{number}.shop.com") for number in range(count))
    made = settings(draft_config(Place("shop", "listings.parquet", 0, hosts)))
    assert len(made["catalog.fetch.hosts"]) == allowed


@pytest.mark.parametrize(
    ("directory", "name"),
    [("My Shop (2)", "my-shop-2"), ("__", "catalog"), ("..x", "x"), ("Ä" * 90, "catalog")],
)
def test_the_run_is_named_after_the_directory(directory: str, name: str) -> None:
    assert run_name(directory) == name
    assert settings(draft_config(Place(run_name(directory), "l.parquet", 0)))["run.name"] == name


def test_hosts_of_images_by_address_are_proposed(
    init: Init, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    addresses = [["https://CDN.shop.com/b.jpg", "https://img.shop.com/b.jpg"], ["a.jpg"]]
    write_parquet(shop / "mine.parquet", images=addresses)
    assert init("mine.parquet") == 0
    fetch = configuration.load("catalog.yaml").catalog.fetch
    assert (fetch.hosts, fetch.schemes) == (("cdn.shop.com", "img.shop.com"), ("https",))
    assert "allows images from cdn.shop.com, img.shop.com" in capsys.readouterr().out


DOUBTFUL = {
    "s3://shop-images/a.jpg": "a bucket, which is read with this machine's credentials",
    "gs://shop-images/a.jpg": "a bucket",
    "http://cdn.shop.com/a.jpg": "not https",
    "file:///etc/passwd": "a scheme that is not fetched",
    "ftp://cdn.shop.com/a": "a scheme that is not fetched",
    "https://169.254.169.254/latest": "an address of a machine",
    "https://[::1]/a": "an address of a machine",
    "https://2130706433/a": "an address of a machine",
    "https://0x7f000001/a": "an address of a machine",
    "https://127.1/a": "an address of a machine",
    "https://[::1/a": "no name that a host can have",
    "https:///a": "no name that a host can have",
    "https://localhost/a": "a name inside a network",
    "https://LOCALHOST./a": "a name inside a network",
    "https://intranet/a": "a name inside a network",
    "https://metadata.google.internal/a": "a name inside a network",
    "https://printer.local/a": "a name inside a network",
    "https://a.localhost/a": "a name inside a network",
    "https://*.shop.com/a": "no name that a host can have",
    "https://cdn_1.shop.com/a": "no name that a host can have",
    "https://-cdn.shop.com/a": "no name that a host can have",
    "https://cdn..shop.com/a": "no name that a host can have",
    "https://cdn.shop.com%2f.evil/a": "no name that a host can have",
    "https://b\u00fccher.de/a": "no name that a host can have",
    "https://\u0441dn.shop.com/a": "no name that a host can have",
    "https://xn--bcher-kva.de/a": "letters that may only look like others",
    "https://a\u2028hosts: [evil.com]/a": "no name that a host can have",
    "https://a\x85b.com/a": "no name that a host can have",
    "https://" + "a." * 200 + "com/a": "no name that a host can have",
    "https://user:s3cr3t@/a": "no name that a host can have",
}


@pytest.mark.parametrize("address", DOUBTFUL)
def test_other_hosts_are_commented_out_with_the_reason(
    init: Init, shop: Path, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    write_parquet(shop / "mine.parquet", images=[[address], ["https://cdn2.shop.com/b.jpg"]])
    assert init("mine.parquet") == 0
    fetch = configuration.load("catalog.yaml").catalog.fetch
    assert (fetch.hosts, fetch.schemes) == (("cdn2.shop.com",), ("https",))
    (comment,) = (
        line for line in (shop / "catalog.yaml").read_text().splitlines() if "#   - " in line
    )
    assert DOUBTFUL[address] in comment
    assert comment.isascii()
    assert len(comment) < 220
    printed = capsys.readouterr().out
    assert f"does not allow {comment.partition('- ')[2].partition('  #')[0]}: " in printed
    assert "s3cr3t" not in comment + printed


def test_hosts_that_are_not_proposed_leave_the_default(init: Init, shop: Path) -> None:
    write_parquet(shop / "mine.parquet", images=[[f"s3://b{n}/a"] for n in range(2)])
    assert init("mine.parquet") == 0
    assert configuration.load("catalog.yaml").catalog.fetch.hosts == ()
    assert "s3://b1" in (shop / "catalog.yaml").read_text()


@given(st.lists(st.text(min_size=1, max_size=30), max_size=14))
def test_whatever_a_sheet_names_the_configuration_loads(names: list[str]) -> None:
    survey = Survey()
    survey.add("shoe", {}, [f"https://{name}" for name in names])
    hosts = tuple(survey.hosts)
    text = draft_config(Place("shop", "listings.parquet", 0, hosts))
    for host in settings(text)["catalog.fetch.hosts"]:
        assert re.fullmatch(r"[a-z0-9.-]+", host)
    assert settings(text).keys() == settings(draft_config(Place("shop", "l.parquet", 0))).keys()
