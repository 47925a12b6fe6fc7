"""Measurements beside stacchip, the project's predecessor, on a full-size scene; run by `make bench`."""
