"""Images by address: what a server answers, and when it is asked again."""

import logging
import socket
import struct
import threading
import time
import zlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from urllib.parse import quote

import pytest

from raypipe.catalog import fetch
from raypipe.catalog.images import Picture, squash
from tests.fakes.catalog_files import photo
from tests.fakes.fetching import SIGNATURE, refused
from tests.fakes.images_server import failing


def test_an_image_is_fetched_with_its_hosts_name(server, fetching, uri):
    assert fetching().read(uri("/photo.png")) == photo(1)
    headers = server.headers["/photo.png"]
    assert headers["Host"] == f"cdn.shop.com:{server.port}"
    assert headers["Accept-Encoding"] == "identity"
    assert not {"Authorization", "Cookie", "Referer"} & headers.keys()


def test_the_scheme_may_be_in_upper_case(fetching, uri):
    assert fetching().read(uri("/photo.png").replace("http", "HTTP", 1)) == photo(1)


def test_odd_characters_reach_the_server_quoted(server, fetching, uri):
    server.image(quote("/Schuh größe 41.png"), photo(2))
    assert fetching().read(uri("/Schuh größe 41.png")) == photo(2)


def test_proxies_of_the_environment_are_not_asked(fetching, uri, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert fetching().read(uri("/photo.png")) == photo(1)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (404, "not_found"),
        (410, "not_found"),
        (400, "refused_by_server"),
        (401, "refused_by_server"),
        (403, "refused_by_server"),
        (304, "refused_by_server"),
    ],
)
def test_a_final_answer_is_not_asked_for_again(server, fetching, uri, slept, status, reason):
    server.answers["/x"] = failing(status)
    detail = refused(fetching().read(uri("/x")), reason)
    assert detail == f"http://cdn.shop.com:{server.port}/x: HTTP {status}"
    assert (server.requests["/x"], slept) == (1, [])


def test_a_broken_server_is_asked_again_after_growing_pauses(server, fetching, uri, slept):
    good = server.answers["/photo.png"]
    server.in_turn("/x", failing(500), failing(502), good)
    assert fetching().read(uri("/x")) == photo(1)
    assert 0.25 <= slept[0] <= 0.5 <= slept[1] <= 1.0


def test_the_pauses_of_two_images_differ(server, fetching, uri, slept):
    for path in ("/x", "/y"):
        server.in_turn(path, failing(500), server.answers["/photo.png"])
        fetching().read(uri(path))
    assert slept[0] != slept[1]


def test_attempts_are_counted_in_all(server, fetching, uri, slept):
    server.answers["/x"] = failing(503)
    assert "attempts: 3" in refused(fetching(attempts=3).read(uri("/x")), "server_error")
    assert (server.requests["/x"], len(slept)) == (3, 2)


@pytest.mark.parametrize(
    ("after", "least", "most"),
    [
        ("7", 7, 8),
        ("86400", fetch.MAX_WAIT_S, fetch.MAX_WAIT_S),
        ("in 30 s", 20, 31),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 1),
        ("soon", 0, 1),
        ("-5", 0, 1),
        ("9" * 400, fetch.MAX_WAIT_S, fetch.MAX_WAIT_S),
        ("\xb2\xb3", 0, 1),
        ("Mon, 1 Jan 99999999999999999999 0:0:0 GMT", 0, 1),
        ("Mon, 1 Jan 0001 00:00:00 +2359", 0, 1),
        ("Mon, 99 Jan 2030 99:99:99 GMT", 0, 1),
        ("Fri, 31 Dec 9999 23:59:59 -2359", 0, fetch.MAX_WAIT_S),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_names_a_time_is_left_alone_until_then(
    server, fetching, uri, slept, status, after, least, most
):
    if after == "in 30 s":
        after = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    server.in_turn("/x", failing(status, Retry_After=after), server.answers["/photo.png"])
    assert fetching().read(uri("/x")) == photo(1)
    assert least <= slept[0] <= most


def test_nobody_listens(fetching, slept):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        content = fetching(attempts=2).read(f"http://cdn.shop.com:{port}/x?{SIGNATURE}")
    assert "Connection refused" in refused(content, "unreachable")
    assert len(slept) == 1


def test_a_name_without_an_address(fetching, uri):
    refused(fetching(attempts=1).read(uri("/x", "nowhere.shop.com")), "unreachable")

    def failing_resolver(host):
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    detail = refused(fetching(failing_resolver, attempts=1).read(uri("/x")), "unreachable")
    assert "cannot be resolved" in detail


def test_a_silent_server(server, fetching, uri):
    server.answers["/x"] = lambda handler: time.sleep(0.15)
    content = fetching(attempts=1, timeout_s=0.05).read(uri("/x"))
    assert "ReadTimeout" in refused(content, "unreachable")


@pytest.mark.parametrize("beginning", [b"", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_trickling_server(server, fetching, uri, monkeypatch, beginning):
    monkeypatch.setattr(fetch, "PATIENCE", 1)

    def trickle(handler):
        handler.wfile.write(beginning)
        for _ in range(100):
            handler.wfile.write(b"H")
            time.sleep(0.02)

    server.answers["/x"] = trickle
    began = time.monotonic()
    refused(fetching(attempts=1, timeout_s=0.1).read(uri("/x")), "unreachable")
    assert time.monotonic() - began < 1.5


def test_the_time_of_an_answer_begins_with_its_request(server, fetching, uri, monkeypatch):
    monkeypatch.setattr(fetch, "PATIENCE", 0.03)
    connections = set()
    good = server.answers["/photo.png"]
    server.answers["/photo.png"] = lambda handler: connections.add(handler) or good(handler)
    fetcher = fetching(attempts=1)
    assert fetcher.read(uri("/photo.png")) == photo(1)
    time.sleep(0.35)
    assert fetcher.read(uri("/photo.png")) == photo(1)
    assert len(connections) == 1


def test_an_answer_that_is_cut_short_is_asked_for_again(server, fetching, uri, slept):
    def cut(handler):
        handler.close_connection = True
        handler.send(200, b"half", Content_Length="1000")

    server.in_turn("/x", cut, server.answers["/photo.png"])
    assert fetching().read(uri("/x")) == photo(1)
    assert len(slept) == 1


def test_a_page_instead_of_an_image(server, fetching, uri):
    page = b"<!DOCTYPE html><html><body>Log in</body></html>"
    server.answers["/x"] = lambda handler: handler.send(200, page, Content_Type="image/jpeg")
    refusal = squash(fetching().read(uri("/x")), 28, 10_000)
    assert "text/html" in refused(refusal, "unknown_format")


def test_an_image_is_one_whatever_its_header_says(server, fetching, uri):
    server.answers["/x"] = lambda handler: handler.send(200, photo(3), Content_Type="text/html")
    assert isinstance(squash(fetching().read(uri("/x")), 28, 10_000), Picture)


def test_a_body_without_end_is_given_up(server, fetching, uri):
    sent = []

    def endless(handler):
        handler.close_connection = True
        handler.send_response(200)
        handler.end_headers()
        while len(sent) < 10_000:
            handler.wfile.write(bytes(10_000))
            sent.append(10_000)

    server.answers["/x"] = endless
    content = fetching(max_bytes=50_000).read(uri("/x"))
    assert "more than 50000 bytes" in refused(content, "too_many_bytes")
    assert len(sent) < 10_000


@pytest.mark.parametrize("length", ["10", "1000000000"])
def test_a_length_that_lies_changes_nothing(server, fetching, uri, length):
    def lie(handler):
        handler.close_connection = True
        handler.send(200, bytes(60_000), Content_Length=length)

    server.answers["/x"] = lie
    content = fetching(max_bytes=50_000, attempts=1).read(uri("/x"))
    assert content == bytes(10) or refused(content, "too_many_bytes")


def test_an_image_of_exactly_the_limit(server, fetching, uri):
    limit = len(photo(1))
    assert fetching(max_bytes=limit).read(uri("/photo.png")) == photo(1)
    refused(fetching(max_bytes=limit - 1).read(uri("/photo.png")), "too_many_bytes")


def test_a_truncated_image_and_a_bomb_are_fetched_and_not_decoded(server, fetching, uri):
    server.image("/half.jpg", photo(1, (300, 300), "JPEG")[:-40])
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header
    chunk += struct.pack(">I", zlib.crc32(b"IHDR" + header))
    server.image("/bomb.png", b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT")
    fetched = fetching().read_all([uri("/half.jpg"), uri("/bomb.png")])
    reasons = [squash(content, 28, 1_000_000).reason for content in fetched.values()]
    assert reasons == ["broken", "too_many_pixels"]


def test_no_log_names_the_query(server, fetching, uri, caplog):
    server.redirect("/x", f"/photo.png?{SIGNATURE}")
    with caplog.at_level(logging.DEBUG):
        assert fetching().read(uri("/x")) == photo(1)
        refused(fetching().read(uri("/none", "inner.shop.com")), "private_address")
    assert "s3cr3t" not in caplog.text


def test_no_more_are_fetched_at_once_than_configured(server, fetching, uri):
    gate = threading.Barrier(3, timeout=10)

    def meet(handler):
        gate.wait()
        handler.send(200, photo(1))

    paths = [f"/{index}" for index in range(9)]
    server.answers |= dict.fromkeys(paths, meet)
    fetched = fetching(concurrency=3).read_all([uri(path) for path in paths])
    assert list(fetched.values()) == [photo(1)] * 9
    assert server.most_at_once == 3


def test_an_image_that_is_named_twice_is_fetched_once(server, fetching, uri):
    fetched = fetching().read_all([uri("/photo.png")] * 5)
    assert fetched == {uri("/photo.png"): photo(1)}
    assert server.requests["/photo.png"] == 1


def test_a_budget_bounds_what_is_held(server, fetching, uri):
    paths = [f"/{index}" for index in range(6)]
    for path in paths:
        server.image(path, bytes(100))
    fetched = fetching(concurrency=1).read_all([uri(path) for path in paths], budget=250)
    assert list(fetched) == [uri(path) for path in paths[:3]]
