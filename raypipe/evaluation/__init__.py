"""How good a policy is, against verified values."""
