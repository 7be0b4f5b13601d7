"""Measured claims: ours and the peer's in one run (``scripts/bench NAME``)."""
