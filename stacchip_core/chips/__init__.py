"""Pixels going out."""
