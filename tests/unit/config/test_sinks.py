"""Where labels go, as a configuration names it."""

import pytest

from raypipe.config import resolve
from raypipe.config.sinks import SinkLocation, parse_sink
from raypipe.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "kind", "place"),
    [
        ("delta:/shop/labels", "delta", "/shop/labels"),
        ("delta:s3://shop/labels", "delta", "s3://shop/labels"),
        ("delta:abfss://shop@host.net/labels", "delta", "abfss://shop@host.net/labels"),
        ("lance:labels.lance", "lance", "labels.lance"),
        ("iceberg:shop.labels", "iceberg", "shop.labels"),
        ("iceberg:a.b.labels", "iceberg", "a.b.labels"),
        ("parquet:gs://shop/labels", "parquet", "gs://shop/labels"),
        ("parquet:labels@home", "parquet", "labels@home"),
    ],
)
def test_a_sink_is_named_by_its_kind_and_its_place(text: str, kind: str, place: str) -> None:
    found = parse_sink(text)
    assert (found.kind, found.place) == (kind, place)
    assert str(found) == text
    assert resolve({"labeling": {"sink": text}}).labeling.sink == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("s3://shop/labels", "is no sink"),
        ("csv:labels", "is no sink"),
        ("delta:", "is no sink"),
        ("", "is no sink"),
        ("delta:/shop/labels@3", "takes no @<snapshot>"),
        ("lance:labels@", "takes no @<snapshot>"),
        ("iceberg:shop.labels@7", "takes no @<snapshot>"),
        ("iceberg:labels", "iceberg:<namespace>.<table>"),
        ("iceberg:s3://shop/labels", "iceberg:<namespace>.<table>"),
        ("delta:https://host/labels", "begins with one of s3://"),
        ("parquet:s3://shop/labels?region=eu", "has no parameters"),
    ],
)
def test_what_is_no_sink_is_refused_while_the_configuration_is_read(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_sink(text)
    with pytest.raises(ConfigError, match=rf"^labeling\.sink: .*{says}"):
        resolve({"labeling": {"sink": text}})


@pytest.mark.parametrize("kind", ["delta", "lance", "parquet"])
def test_credentials_in_an_address_are_refused_and_not_repeated(kind: str) -> None:
    address = f"{kind}:s3://me:hunter2@shop/labels"
    for refuse in (parse_sink, lambda text: resolve({"labeling": {"sink": text}})):
        with pytest.raises(ConfigError, match="environment") as raised:
            refuse(address)
        assert "hunter2" not in str(raised.value)


def test_labels_stay_in_the_run_by_default() -> None:
    assert resolve({}).labeling.sink is None
    assert parse_sink("delta:a") == SinkLocation("delta", "a")
