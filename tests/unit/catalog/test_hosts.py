"""Hosts that are away are left alone."""

from raypipe.catalog import fetch, hosts
from raypipe.catalog.fetch import Fetcher
from raypipe.config import FetchConfig
from tests.fakes.catalog_files import photo
from tests.fakes.fetching import refused
from tests.fakes.images_server import failing


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
