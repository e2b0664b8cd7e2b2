"""Fixtures of a small run with committed listings and chains, to export."""

from tests.fakes.voted_run import chain_rows as chain_rows
from tests.fakes.voted_run import listing_rows as listing_rows
from tests.fakes.voted_run import make_run as make_run
