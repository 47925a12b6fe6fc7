"""The command `stacchip`: look at a warehouse and take care of it, on disk or in a bucket."""

# A module of commands adds them to the app as it is imported: this is their order in the help.
from stacchip_core.cli.root import app

# isort: split
from stacchip_core.cli import look

# isort: split
from stacchip_core.cli import sources

# isort: split
from stacchip_core.cli import failures

# isort: split
from stacchip_core.cli import care

# isort: split
from stacchip_core.cli import datasets

__all__ = ["app", "care", "datasets", "failures", "look", "sources"]
