"""What the tests of fetching images share."""

from ipaddress import ip_address

from raypipe.catalog.images import Refusal

LOOPBACK = ip_address("127.0.0.1")

NAMES = {
    "cdn.shop.com": ["127.0.0.1"],
    "a.shop.com": ["127.0.0.1"],
    "inner.shop.com": ["127.0.0.2"],
    "mixed.shop.com": ["127.0.0.1", "10.0.0.7"],
    "nowhere.shop.com": [],
}

SIGNATURE = "sig=s3cr3t"


def refused(content, reason):
    assert isinstance(content, Refusal), content
    assert content.reason == reason
    assert "s3cr3t" not in content.detail
    return content.detail
