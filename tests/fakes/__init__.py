"""What tests use in place of the world: servers, catalogs, engines, runs."""
