"""Why an item failed, in a word: failures group by it, and it says whether waiting may help."""

from __future__ import annotations

import re
from collections.abc import Iterator
from json import JSONDecodeError

from stacchip_core.errors import HrefRefusedError, InvalidItemError, ProfileError, TransientError, UnsupportedGridError

# Every cause there is, and what it means: the words are kept in warehouses, so none may change.
CAUSES = {
    "not-found": "a file is not there",
    "forbidden": "the server or the disk does not let us read it",
    "truncated": "a file ends before it should",
    "not-a-raster": "a file is no GeoTIFF or JPEG 2000: an error page, perhaps",
    "bad-json": "an item's file is not JSON",
    "grid": "the item's grid can't be used, or a file contradicts it",
    "item": "the item lacks what indexing needs, or is no STAC item",
    "collection": "the item belongs to another collection",
    "refused": "an href names something that may not be read",
    "profile": "the profile does not fit",
    "too-large": "a file is larger than any scene",
    "timeout": "no answer in time",
    "unavailable": "the server was not to be reached, or busy",
    "other": "something else: its reason says what",
    "defect": "an error of this software",
}
PASSING = frozenset({"timeout", "unavailable"})  # those that may be over by themselves

_BY_STATUS = {401: "forbidden", 403: "forbidden", 404: "not-found", 408: "timeout", 410: "not-found", 504: "timeout"}
_BY_CLASS: tuple[tuple[type[BaseException], str], ...] = (
    (HrefRefusedError, "refused"),
    (UnsupportedGridError, "grid"),
    (ProfileError, "profile"),
    (FileNotFoundError, "not-found"),
    (NotADirectoryError, "not-found"),
    (PermissionError, "forbidden"),
    (TimeoutError, "timeout"),
    (JSONDecodeError, "bad-json"),
    (UnicodeDecodeError, "bad-json"),
)
# A status as our messages, GDAL and urllib3 write it.
_STATUS = re.compile(
    r"(?:HTTP(?: response code)?|response_code|status|answered|\()[ :=]{0,2}([45]\d\d)\b", re.IGNORECASE
)
# What GDAL and the network say, which have no codes for it: frmts/gtiff, libtiff's tif_read.c and tif_dirread.c,
# gcore/gdaldataset.cpp; libcurl's lib/strerror.c.
_BY_WORDS = (
    ("not-a-raster", r"rule: file-format"),  # a rule of the gate tells more than the words before it
    ("too-large", r"rule: (?:raster-size|block-bytes)"),
    ("not-found", r"no such file|is not there|not found|does not exist|NoSuchKey|NoSuchBucket"),
    ("forbidden", r"access ?denied|permission denied|forbidden|unauthorized"),
    ("timeout", r"timed? ?out|deadline|too slow"),
    ("bad-json", r"not JSON|no plain JSON"),
    ("not-a-raster", r"not recognized as|not a TIFF|bad magic|no GeoTIFF"),
    (
        "truncated",
        r"truncated|read error|TIFFFillTile|TIFFFillStrip|TIFFReadEncoded|IReadBlock|bytes, expected|unexpected end"
        r"|can ?not read TIFF|TIFFFetchDirectory|TIFFReadDirectory|decode|decompress|ends before|shorter than",
    ),
    ("too-large", r"more than any scene|MiB allowed|MiB of JSON"),
)


def cause_of(error: BaseException) -> str:
    """One of `CAUSES`: by the answer of a server, then by class, then by what the libraries below us said."""
    links = list(_chain(error))
    for found in (_by_status(links), _by_class(links), cause_of_words(" ".join(map(str, links)))):
        if found != "other":
            return found
    if isinstance(error, TransientError):
        return "unavailable"
    return "item" if isinstance(error, InvalidItemError) else "other"


def cause_of_words(text: str) -> str:
    """One of `CAUSES` by a message alone; "other" where it tells nothing."""
    if match := _STATUS.search(text):
        return _of_status(int(match[1]))
    return next((name for name, words in _BY_WORDS if re.search(words, text, re.IGNORECASE)), "other")


def _of_status(status: int) -> str:
    return _BY_STATUS.get(status, "unavailable" if status == 429 or status >= 500 else "other")


def _by_status(links: list[BaseException]) -> str:
    codes = [code for link in links if isinstance(code := getattr(link, "code", None), int) and 400 <= code <= 599]
    return _of_status(codes[0]) if codes else "other"


def _by_class(links: list[BaseException]) -> str:
    return next((name for kind, name in _BY_CLASS for link in links if isinstance(link, kind)), "other")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
