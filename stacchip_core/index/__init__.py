"""Item to chip table."""
