"""Every error that stacchip-core raises on purpose.

StacchipError
├── InputError (ValueError)        what you gave can't be used: mend it
│   ├── InvalidItemError           a STAC item
│   │   └── UnsupportedGridError   its grid, or an asset that does not fit the grid
│   ├── HrefRefusedError           an href that may not be read
│   ├── ProfileError               a collection profile
│   └── SpecError                  a ChipSpec, or what it asks of an index
├── LookupFailedError (KeyError)   there is no such thing: the message lists what there is
│   ├── ChipNotFoundError (IndexError)
│   ├── BandNotFoundError
│   ├── ProfileNotFoundError
│   └── VersionNotFoundError
├── ReadError                      pixels or metadata could not be read
│   └── IncompleteError            some items of a source could not be found: the message says which
├── StoreError                     object storage refused or failed
│   ├── ObjectNotFoundError
│   ├── ObjectExistsError          an exclusive create lost
│   ├── UnsafeStoreError           the store ignores exclusive create
│   └── CorruptWarehouseError      stored bytes contradict the log
├── TransientError                 the same call may work later: retry
│   ├── TransientReadError (ReadError)
│   └── TransientStoreError (StoreError)
├── FailureBudgetError             more items failed than a run may have failing; the others are committed
├── CommitConflictError            another writer was first: reload, then retry
└── CommitUnknownError             nobody knows whether the commit landed: look first
"""

from __future__ import annotations


class StacchipError(Exception):
    """Base of all errors raised by stacchip-core."""

    def __init__(self, *args: object, rule: str = "") -> None:
        """Take a message, and the name of the rule that refuses something; the message then ends in it."""
        super().__init__(*args[:-1], f"{args[-1]} (rule: {rule})") if rule and args else super().__init__(*args)

    def __str__(self) -> str:
        """Return the message as written (`KeyError` would show it quoted)."""
        return " ".join(str(arg) for arg in self.args)


class InputError(StacchipError, ValueError):
    """What was given can't be used."""


class InvalidItemError(InputError):
    """A STAC item lacks, or contradicts, what indexing needs."""


class UnsupportedGridError(InvalidItemError):
    """An item's grid can't be used, or an asset does not fit it."""


class HrefRefusedError(InputError):
    """An href names something that may not be read."""


class ProfileError(InputError):
    """A collection profile is malformed."""


class SpecError(InputError):
    """A ChipSpec is malformed, or asks for what the index does not hold."""


class LookupFailedError(StacchipError, KeyError):
    """Something was asked for by name and is not there."""


class ChipNotFoundError(LookupFailedError, IndexError):
    """No such chip in the index."""


class BandNotFoundError(LookupFailedError):
    """No such band in the scene."""


class ProfileNotFoundError(LookupFailedError):
    """No built-in profile has that name."""


class VersionNotFoundError(LookupFailedError):
    """No such index, or no such version of it."""


class ReadError(StacchipError):
    """An asset or item could not be read."""


class IncompleteError(ReadError):
    """A source gave less than it has, as far as can be told."""


class StoreError(StacchipError):
    """Object storage refused or failed."""


class ObjectNotFoundError(StoreError):
    """No object under that key."""


class ObjectExistsError(StoreError):
    """An exclusive create found the key taken."""


class UnsafeStoreError(StoreError):
    """The store overwrites where it should refuse, so commits on it could be lost."""


class CorruptWarehouseError(StoreError):
    """Stored bytes are not what the log says they are."""


class TransientError(StacchipError):
    """The same call may work later."""


class TransientReadError(TransientError, ReadError):
    """An asset or item could not be read just now."""


class TransientStoreError(TransientError, StoreError):
    """Object storage failed just now."""


class FailureBudgetError(StacchipError):
    """More items failed than may; what was committed stays."""


class CommitConflictError(StacchipError):
    """Another writer committed first."""


class CommitUnknownError(StacchipError):
    """The outcome of a commit could not be learned before the deadline."""
