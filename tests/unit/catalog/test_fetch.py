"""Images by URI: what an allowed host has is fetched, and nobody else is ever asked."""

import logging
import socket
import ssl
import struct
import threading
import time
import zlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address
from urllib.parse import quote

import httpcore
import pyarrow.fs as pafs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from images_server import ImagesServer, failing
from shop import photo

from raypipe.catalog import fetch, hosts, network
from raypipe.catalog.fetch import Fetcher, open_reader
from raypipe.catalog.images import Picture, Refusal, squash
from raypipe.catalog.locations import host_allowed
from raypipe.catalog.network import is_public
from raypipe.catalog.sources import Source
from raypipe.config import CatalogConfig, FetchConfig

LOOPBACK = ip_address("127.0.0.1")
NAMES = {
    "cdn.shop.com": ["127.0.0.1"],
    "a.shop.com": ["127.0.0.1"],
    "inner.shop.com": ["127.0.0.2"],
    "mixed.shop.com": ["127.0.0.1", "10.0.0.7"],
    "nowhere.shop.com": [],
}
SIGNATURE = "sig=s3cr3t"


@pytest.fixture
def server():
    with ImagesServer() as server:
        server.image("/photo.png", photo(1))
        yield server


@pytest.fixture
def slept():
    return []


@pytest.fixture
def fetching(server, slept):
    """Makes fetchers for which 127.0.0.1 is the public internet."""
    opened = []

    def make(resolve=lambda host: NAMES.get(host, [host]), clock=time.monotonic, **changes):
        values = {"schemes": ("http",), "hosts": ("*.shop.com",), "timeout_s": 10} | changes
        fetcher = Fetcher(
            FetchConfig(**values),
            resolve=resolve,
            is_allowed_address=lambda address: address == LOOPBACK,
            sleep=slept.append,
            clock=clock,
        )
        opened.append(fetcher)
        return fetcher

    yield make
    for fetcher in opened:
        fetcher.__exit__(None, None, None)


@pytest.fixture
def uri(server):
    return lambda path, host="cdn.shop.com": f"http://{host}:{server.port}{path}?{SIGNATURE}"


def refused(content, reason):
    assert isinstance(content, Refusal), content
    assert content.reason == reason
    assert "s3cr3t" not in content.detail
    return content.detail


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


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("place", ["/photo.png", "//a.shop.com:{port}/photo.png?x=1"])
def test_a_redirect_to_an_allowed_host(server, fetching, uri, status, place):
    server.redirect("/x", place.format(port=server.port), status)
    assert fetching().read(uri("/x")) == photo(1)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("http://169.254.169.254/latest/meta-data", "host_not_allowed"),
        ("http://127.0.0.1:{port}/photo.png", "host_not_allowed"),
        ("http://inner.shop.com:{port}/photo.png", "private_address"),
        ("http://mixed.shop.com:{port}/photo.png", "private_address"),
        ("http://evil.com/x", "host_not_allowed"),
        ("https://cdn.shop.com/x", "scheme_not_allowed"),
        ("file:///etc/passwd", "scheme_not_allowed"),
        ("s3://cdn.shop.com/x", "scheme_not_allowed"),
        ("gopher://cdn.shop.com/x", "scheme_not_allowed"),
        ("http://me:pass@cdn.shop.com:{port}/photo.png", "bad_uri"),
        ("http://[::1/", "bad_uri"),
        ("http://cdn.shop.com:99999/", "bad_uri"),
        ("http://xn--a/", "bad_uri"),
        ("http://xn--a.shop.com:{port}/photo.png", "bad_uri"),
        ("http://cdn.shop.com:" + "9" * 5000 + "/", "bad_uri"),
        ("http://cdn.shop.com/" + "a" * 70_000, "bad_uri"),
        ("//xn--\xe4\xff/", "bad_uri"),
    ],
)
def test_every_redirect_is_checked_like_the_first_uri(server, fetching, uri, target, reason):
    server.redirect("/x", target.format(port=server.port) + f"?{SIGNATURE}")
    refused(fetching().read(uri("/x")), reason)
    assert server.requests == {"/x": 1}


def test_a_redirect_to_an_allowed_host_with_a_private_address(server, fetching, uri):
    server.redirect("/x", "http://169.254.169.254/latest/meta-data")
    fetcher = fetching(hosts=("cdn.shop.com", "169.254.169.254"))
    assert "169.254.169.254" in refused(fetcher.read(uri("/x")), "private_address")


def test_a_bucket_is_not_reached_by_redirect(server, fetching, uri):
    server.redirect("/x", "s3://cdn.shop.com/x")
    refused(fetching(schemes=("http", "s3")).read(uri("/x")), "scheme_not_allowed")


def test_redirects_end(server, fetching, uri):
    server.redirect("/x", f"/x?{SIGNATURE}")
    refused(fetching(max_redirects=2).read(uri("/x")), "too_many_redirects")
    assert server.requests["/x"] == 3
    server.redirect("/once", "/photo.png")
    refused(fetching(max_redirects=0).read(uri("/once")), "too_many_redirects")


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


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gopher://cdn.shop.com/x", "scheme_not_allowed"),
        ("file:///etc/passwd", "scheme_not_allowed"),
        ("FILE://localhost/etc/passwd", "scheme_not_allowed"),
        ("https://cdn.shop.com/x", "scheme_not_allowed"),
        ("s3://cdn.shop.com/x", "scheme_not_allowed"),
        ("a.png?u=http://cdn.shop.com/x&sig=s3cr3t", "bad_uri"),
        ("://cdn.shop.com/x", "bad_uri"),
        (" http://cdn.shop.com/x", "bad_uri"),
        ("http://cdn.shop.com/\nx", "bad_uri"),
        ("http://me:s3cr3t@cdn.shop.com/", "bad_uri"),
        ("http://me:s3cr/s3cr3t@cdn.shop.com/", "bad_uri"),
        ("http://cdn.shop.com@evil.com/", "bad_uri"),
        ("http://evil.com\\@cdn.shop.com/", "bad_uri"),
        ("http://cdn.shop.com:0/", "bad_uri"),
        ("http://cdn.shop.com:65536/", "bad_uri"),
        ("http:///x", "bad_uri"),
        ("http://[::1/", "bad_uri"),
        ("http://shop.com/", "host_not_allowed"),
        ("http://evilshop.com/", "host_not_allowed"),
        ("http://shop.com.evil.com/", "host_not_allowed"),
        ("http://cdn.shop.com.evil.com/", "host_not_allowed"),
        ("http://evil.com/?.shop.com", "host_not_allowed"),
        ("http://evil.com#.shop.com", "host_not_allowed"),
        ("http://169.254.169.254/", "host_not_allowed"),
        ("http://0x7f000001/", "host_not_allowed"),
        ("http://[::1]/", "host_not_allowed"),
        ("photos/1.png", "bad_uri"),
        ("http://xn--a/", "bad_uri"),
        ("http://xn--a.shop.com/", "bad_uri"),
        ("http://\u0378.shop.com/", "bad_uri"),
        ("http://" + "a" * 70_000, "bad_uri"),
        ("http://cdn.shop.com:" + "9" * 5000 + "/", "bad_uri"),
        ("http://[fe80::1%25eth0]/", "host_not_allowed"),
    ],
)
def test_what_is_refused_before_anyone_is_asked(fetching, name, reason):
    def never(host):
        raise AssertionError(host)

    refused(fetching(never).read(name), reason)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "0x7f000001", "2130706433", "127.1", "localhost", "[::1]", "[::ffff:127.0.0.1]"],
)
def test_an_allowed_name_of_this_machine_is_still_private(server, host):
    config = FetchConfig(schemes=("http",), hosts=(host,), attempts=1)
    with Fetcher(config) as fetcher:
        content = fetcher.read(f"http://{host}:{server.port}/photo.png?{SIGNATURE}")
    refused(content, "private_address")
    assert not server.requests


@pytest.mark.parametrize("host", ["inner.shop.com", "mixed.shop.com"])
def test_every_address_of_a_name_must_be_allowed(server, fetching, uri, host):
    refused(fetching().read(uri("/photo.png", host)), "private_address")
    assert not server.requests


def test_a_name_that_changes_its_address_is_checked_whenever_it_is_asked(server, fetching, uri):
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])
    fetcher = fetching(lambda host: next(answers))
    server.in_turn("/x", failing(500, Connection="close"), server.answers["/photo.png"])
    assert "127.0.0.2" in refused(fetcher.read(uri("/x")), "private_address")
    assert server.requests["/x"] == 1


@pytest.mark.parametrize(
    ("host", "reason"), [("cdn.shop.com", None), ("a.shop.com", "unreachable")]
)
def test_a_certificate_is_checked_against_the_name_and_not_the_address(tmp_path, host, reason):
    server_tls, client_tls = certified("cdn.shop.com", tmp_path)
    asked = []
    server_tls.sni_callback = lambda connection, name, context: asked.append(name)
    config = FetchConfig(hosts=("*.shop.com",), attempts=1)
    with ImagesServer(server_tls) as server:
        server.image("/photo.png", photo(1))
        with Fetcher(
            config,
            resolve=NAMES.__getitem__,
            is_allowed_address=lambda address: address == LOOPBACK,
            tls=client_tls,
        ) as fetcher:
            content = fetcher.read(f"https://{host}:{server.port}/photo.png?{SIGNATURE}")
    assert asked == [host]
    assert content == photo(1) or "CERTIFICATE_VERIFY_FAILED" in refused(content, reason)


def certified(host, directory):
    """TLS of a server with a certificate for a host, and of a client that trusts it."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = certificate.public_bytes(pem)
    (directory / "server.pem").write_bytes(secret + public)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(directory / "server.pem")
    return server, ssl.create_default_context(cadata=public.decode())


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::93.184.216.34", True),
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("192.168.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::ffff:10.0.0.1", False),
        ("::127.0.0.1", False),
        ("64:ff9b::169.254.169.254", False),
        ("64:ff9b:1::1", False),
        ("2002:7f00:1::", False),
        ("fd00:ec2::254", False),
        ("fe80::1", False),
        ("fec0::1", False),
        ("ff02::1", False),
    ],
)
def test_public_addresses(address, public):
    assert is_public(ip_address(address)) is public


LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
HOST = st.lists(LABEL, min_size=1, max_size=4).map(".".join)


@given(HOST, HOST, LABEL)
def test_a_pattern_allows_itself_or_all_below_and_nothing_else(host, domain, label):
    assert host_allowed(host, [domain]) == (host == domain)
    assert host_allowed(host, [f"*.{domain}"]) == (
        host.split(".")[-len(domain.split(".")) :] == domain.split(".") and len(host) > len(domain)
    )
    assert host_allowed(f"{label}.{domain}", [f"*.{domain}"])
    assert host_allowed(f"{host}.{domain}.".upper(), [f"*.{domain}"])
    assert not host_allowed(f"{label}{domain}", [domain, f"*.{label}.{domain}"])
    assert not host_allowed(f"{domain}.{label}x", [domain, "*", "*."])
    assert not host_allowed(f".{domain}", [f"*.{domain}"])
    assert not host_allowed(host, [])


def test_hosts_in_other_letters(fetching, server):
    answer = fetching(lambda host: ["127.0.0.1"], hosts=("bücher.de",))
    assert answer.read(f"http://Bücher.de:{server.port}/photo.png") == photo(1)
    assert answer.read(f"http://xn--bcher-kva.de:{server.port}/photo.png") == photo(1)
    refused(answer.read(f"http://bucher.de:{server.port}/photo.png"), "host_not_allowed")


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


def buckets(tmp_path):
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "photos" / "a" / "1.png").write_bytes(photo(1))
    return lambda scheme, name: pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("s3://photos/a/2.png", "not_found"),
        ("s3://photos/a", "unreadable_file"),
        ("s3://other/a/1.png", "host_not_allowed"),
        ("s3://key:s3cr3t@photos/a/1.png", "bad_uri"),
        ("s3://photos", "bad_uri"),
        ("s3://photos/", "bad_uri"),
        ("s3:///a", "bad_uri"),
        ("s3://photos/" + "a" * 5000, "bad_uri"),
        ("s3://photos/a\0b", "bad_uri"),
        ("s3://[photos/a", "bad_uri"),
        ("gs://photos/a/1.png", "scheme_not_allowed"),
    ],
)
def test_objects_of_allowed_buckets(tmp_path, name, reason):
    config = FetchConfig(schemes=("s3",), hosts=("photos",))
    with Fetcher(config, open_bucket=buckets(tmp_path)) as fetcher:
        assert fetcher.read("S3://photos/a/1.png") == photo(1)
        refused(fetcher.read(name), reason)


def test_objects_that_are_too_large_or_refused(tmp_path):
    config = FetchConfig(schemes=("gs",), hosts=("photos",), max_bytes=10)
    with Fetcher(config, open_bucket=buckets(tmp_path)) as fetcher:
        refused(fetcher.read("gs://photos/a/1.png"), "too_many_bytes")

    def denied(scheme, name):
        raise OSError("AWS Error ACCESS_DENIED during HeadObject")

    with Fetcher(config, open_bucket=denied) as fetcher:
        refused(fetcher.read("gs://photos/a/1.png"), "refused_by_server")


@pytest.fixture
def catalog(tmp_path):
    (tmp_path / "1.png").write_bytes(photo(1))
    config = CatalogConfig(
        listings="x",
        attribute_schema="x",
        seed="x",
        truth="x",
        fetch=FetchConfig(schemes=("http",), hosts=("127.0.0.1",)),
    )
    source = Source(pafs.LocalFileSystem(), (), str(tmp_path), ())
    with open_reader(config, source) as reader:
        yield reader


def test_a_reader_reads_paths_and_uris(catalog, server, uri):
    assert catalog.read("1.png") == photo(1)
    refused(catalog.read("2.png?sig=s3cr3t"), "missing_file")
    refused(catalog.read(uri("/photo.png", "127.0.0.1")), "private_address")


def test_a_reader_keeps_what_it_read_ahead_until_the_next_batch(catalog, tmp_path):
    catalog.prefetch(["1.png", "2.png"])
    (tmp_path / "1.png").write_bytes(photo(2))
    (tmp_path / "2.png").write_bytes(photo(3))
    assert catalog.read("1.png") == photo(1)
    refused(catalog.read("2.png"), "missing_file")
    catalog.prefetch([])
    assert catalog.read("1.png") == photo(2)


def test_a_reader_reads_what_did_not_fit_ahead(catalog, monkeypatch):
    monkeypatch.setattr(fetch, "AHEAD_BYTES", 0)
    catalog.prefetch(["1.png"])
    assert catalog.read("1.png") == photo(1)


URI_PARTS = st.sampled_from(
    ["http", "https", "s3", "://", "/", "//", ":", "@", "[", "]", "?", "#", "%", "xn--", "xn--a",
     "cdn.shop.com", ".shop.com", "::1", "%25", "0x7f", "127.1", "\u0130", "\u2028", "\0", "\r\n",
     "\\", "\ud800", "80", "99999", "a" * 64, "*", "\u00df", "\u200d"]
)  # fmt: skip
ADDRESS = st.one_of(
    st.text(), st.lists(URI_PARTS | st.text(max_size=3), max_size=12).map("".join)
).map(lambda rest: rest if "://" in rest else f"http://{rest}")


@given(ADDRESS, st.sampled_from([("*.shop.com",), ("*.shop.com", "xn--a", "127.1", "::1")]))
@settings(max_examples=300, deadline=None)
def test_any_text_as_an_address_ends_as_a_refusal(name, hosts):
    def nowhere(host):
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    config = FetchConfig(schemes=("http", "https", "s3"), hosts=hosts, attempts=2)
    with Fetcher(
        config,
        resolve=nowhere,
        open_bucket=lambda scheme, name: pafs.LocalFileSystem(),
        sleep=lambda seconds: None,
    ) as fetcher:
        content = fetcher.read(name)
    assert isinstance(content, Refusal)
    assert len(content.detail) < 600


class Replies(httpcore.NetworkBackend):
    """A network in which every connection gets the same bytes."""

    def __init__(self, reply):
        self.reply = reply

    def connect_tcp(self, *args, **options):
        stream = httpcore.MockStream([self.reply])
        stream.start_tls = lambda *args, **options: stream
        return stream


HEADER = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda name, value: name + b": " + value,
        st.sampled_from([b"Location", b"Retry-After", b"Content-Length", b"Transfer-Encoding",
                         b"Connection", b"Content-Type", b"X" * 5000]),
        st.one_of(
            st.binary(max_size=40),
            ADDRESS.map(lambda text: text.encode(errors="replace")),
            st.integers().map(lambda number: str(number).encode()),
            st.datetimes().map(lambda moment: format_datetime(moment).encode()),
            st.sampled_from([b"chunked", b"9" * 5000, b"Mon, 1 Jan 99999999999999 0:0:0 GMT"]),
        ),
    ),
)  # fmt: skip
STATUS = st.sampled_from([b"200", b"302", b"308", b"404", b"429", b"503", b"101", b"100", b"204"])


@given(STATUS | st.binary(max_size=5), st.lists(HEADER, max_size=6), st.binary(max_size=50))
@settings(max_examples=300, deadline=None)
def test_whatever_a_server_answers_ends_as_bytes_or_a_refusal(status, headers, body):
    reply = b"HTTP/1.1 " + status + b" x\r\n" + b"\r\n".join([*headers, b"", body])
    slept = []
    config = FetchConfig(schemes=("http", "https"), hosts=("*.shop.com",), max_bytes=40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network.httpcore, "SyncBackend", lambda: Replies(reply))
        with Fetcher(config, resolve=lambda host: ["93.184.216.34"], sleep=slept.append) as fetcher:
            content = fetcher.read("http://cdn.shop.com/x")
    assert isinstance(content, bytes | Refusal)
    assert all(0 <= seconds <= fetch.MAX_WAIT_S for seconds in slept)


def test_too_many_and_too_large_headers(server, fetching, uri):
    def headers(count, size):
        def answer(handler):
            handler.close_connection = True
            handler.send(200, photo(1), **{f"X_{n}": "a" * size for n in range(count)})

        return answer

    server.answers["/many"] = headers(10_000, 100)
    server.answers["/large"] = headers(1, 1_000_000)
    for path in ("/many", "/large"):
        refused(fetching(attempts=1).read(uri(path)), "unreachable")


# Hosts that stop answering.


def test_a_host_that_gives_nothing_is_left_alone(server, fetching, uri, slept):
    fetcher = fetching()
    server.answers |= {f"/{n}": failing(429, Retry_After="3600") for n in range(100)}
    contents = [fetcher.read(uri(f"/{n}")) for n in range(100)]
    assert [content.reason for content in contents[:20]] == ["server_error"] * 20
    assert {refused(content, "host_away") for content in contents[20:]} == {
        f"http://cdn.shop.com:{server.port} has not answered for a while and is left alone; "
        "try again later"
    }
    assert server.requests.total() == 80
    assert sum(slept) == 60 * fetch.MAX_WAIT_S
    assert fetcher.read(uri("/photo.png", "a.shop.com")) == photo(1)  # another host


def test_a_host_that_says_that_an_image_is_gone_is_not_away(server, fetching, uri):
    fetcher = fetching(attempts=1)
    server.answers |= {"/broken": failing(500), "/gone": failing(404)}
    for _ in range(2 * hosts.LOST_IN_A_ROW):
        refused(fetcher.read(uri("/broken")), "server_error")
        refused(fetcher.read(uri("/gone")), "not_found")
    assert fetcher.read(uri("/photo.png")) == photo(1)


def test_a_host_that_is_back_is_asked_again(server, fetching, uri, monkeypatch):
    now = [0.0]
    fetcher = fetching(attempts=1, clock=lambda: now[0])
    server.answers["/x"] = failing(503)
    for _ in range(hosts.LOST_IN_A_ROW):
        refused(fetcher.read(uri("/x")), "server_error")
    now[0] += hosts.FIRST_AWAY_S + 1
    refused(fetcher.read(uri("/x")), "server_error")  # one is tried, once
    refused(fetcher.read(uri("/photo.png")), "host_away")
    now[0] += hosts.FIRST_AWAY_S + 1
    refused(fetcher.read(uri("/photo.png")), "host_away")  # twice as long
    now[0] += hosts.FIRST_AWAY_S
    assert fetcher.read(uri("/photo.png")) == photo(1)
    refused(fetcher.read(uri("/x")), "server_error")
    assert fetcher.read(uri("/photo.png")) == photo(1)


def test_a_host_that_a_redirect_leads_to_is_left_alone_too(server, fetching, uri):
    fetcher = fetching(attempts=1)
    server.redirect("/x", f"http://a.shop.com:{server.port}/y")
    server.answers["/y"] = failing(500)
    for _ in range(hosts.LOST_IN_A_ROW):
        refused(fetcher.read(uri("/x")), "server_error")
    assert "a.shop.com" in refused(fetcher.read(uri("/x")), "host_away")
    assert fetcher.read(uri("/photo.png")) == photo(1)
    assert server.requests["/y"] == hosts.LOST_IN_A_ROW


def test_an_image_has_its_time_whatever_the_attempts(server, fetching, uri, slept):
    now = [0.0]
    server.answers["/x"] = failing(500)

    def clock():
        now[0] += 40
        return now[0]

    fetcher = fetching(attempts=1000, clock=clock)
    refused(fetcher.read(uri("/x")), "server_error")
    assert server.requests["/x"] < 10
    server.redirect("/y", "/y")
    assert "300 s in all" in refused(
        fetching(max_redirects=1000, attempts=1, clock=clock).read(uri("/y")), "unreachable"
    )


def test_a_bucket_that_is_away_is_left_alone(tmp_path):
    asked = []

    def broken(scheme, name):
        asked.append(name)
        raise OSError("When resolving: AWS Error NETWORK_CONNECTION during HeadBucket operation")

    config = FetchConfig(schemes=("s3",), hosts=("photos",))
    with Fetcher(config, open_bucket=broken) as fetcher:
        contents = [fetcher.read(f"s3://photos/{n}.png") for n in range(24)]
    assert [content.reason for content in contents] == ["unreachable"] * 20 + ["host_away"] * 4
    assert len(asked) == 20
