"""Whatever an address is and a server answers, it ends as bytes or as a refusal."""

import socket
from email.utils import format_datetime

import httpcore
import pyarrow.fs as pafs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.catalog import fetch, network
from raypipe.catalog.fetch import Fetcher
from raypipe.catalog.images import Refusal
from raypipe.config import FetchConfig
from tests.fakes.catalog_files import photo
from tests.fakes.fetching import refused

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
