"""STAC items and pixels coming in."""
