"""Which hosts, addresses and redirects an image may come from."""

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.catalog.fetch import Fetcher
from raypipe.catalog.locations import host_allowed
from raypipe.catalog.network import is_public
from raypipe.config import FetchConfig
from tests.fakes.catalog_files import photo
from tests.fakes.fetching import LOOPBACK, NAMES, SIGNATURE, refused
from tests.fakes.images_server import ImagesServer, failing


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
