"""What may be read: hrefs are resolved, gated and cleaned of signatures before anything opens them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from stacchip_core.errors import HrefRefusedError, ReadError
from stacchip_core.sources.access import Storage, is_remote, locate, resolve_href, unsigned_href

SIGNATURES = [
    "sv=2024-05-04&st=2026-01-01T00%3A00%3A00Z&se=2026-01-01&sr=c&sp=rl&sig=ab%2Fc%3D",
    "st=x&se=y&sp=rl&sv=z&sr=c&skoid=a&sktid=b&skt=c&ske=d&sks=b&skv=e&sig=f",
    "sv=2022-11-02&ss=b&srt=sco&sp=r&se=y&st=x&spr=https&sip=10.0.0.1&sig=f",
    "X-Amz-Algorithm=AWS4&X-Amz-Credential=a%2Fb&X-Amz-Date=d&X-Amz-Expires=9&X-Amz-SignedHeaders=host&X-Amz-Signature=f",
    "AWSAccessKeyId=a&Signature=b%3D&Expires=9",
    "GoogleAccessId=a@b.iam&Expires=9&Signature=c",
    "X-Goog-Algorithm=a&X-Goog-Credential=b&X-Goog-Signature=c",
    "Policy=a&Signature=b&Key-Pair-Id=c",
    "token=abc",
]


@pytest.mark.parametrize("signature", SIGNATURES)
@pytest.mark.parametrize("query", ["", "versionId=a%20b+c&empty=", "v=1&v=2&flag"])
def test_unsigned_hrefs_are_those_before_signing(signature: str, query: str) -> None:
    href = "https://host.example/a%20b/c.tif" + (f"?{query}" if query else "")
    signed = f"{href}{'&' if query else '?'}{signature}"
    assert unsigned_href(signed) == href
    assert unsigned_href(href) == href
    assert unsigned_href(signed.replace("https://", "https://user:pw@")) == href


@pytest.mark.parametrize("signature", SIGNATURES)
def test_relative_hrefs_lose_their_signatures_too(signature: str) -> None:
    assert unsigned_href(f"../B04.tif?{signature}") == "../B04.tif"
    assert unsigned_href(f"//u:p@host.example/B04.tif?{signature}") == "//host.example/B04.tif"


@pytest.mark.parametrize(
    "href", ["a.tif", "../x y/ä.tif", "s3://bucket/key.tif", "https://h/x?a=b%20c&d", "C:\\x.tif", ""]
)
def test_hrefs_without_signature_stay_as_they_are(href: str) -> None:
    assert unsigned_href(href) == href


@given(st.text(max_size=40))
@example("https://a:b@c/?sig=1#sig=2")
@example("http://[::1")
def test_cleaning_twice_is_cleaning_once(href: str) -> None:
    once = unsigned_href(href)
    assert unsigned_href(once) == once
    if "://" in once and "[" not in once:
        assert "sig" not in parse_qs(urlsplit(once).query)


@pytest.mark.parametrize(
    ("href", "base", "resolved"),
    [
        ("https://h/x.tif", "https://other/item.json", "https://h/x.tif"),
        ("s3://b/x.tif", "", "s3://b/x.tif"),
        ("x.tif", "https://h/a/item.json", "https://h/a/x.tif"),
        ("./x.tif", "https://h/a/item.json?sig=1", "https://h/a/x.tif"),
        ("../b/x.tif", "https://h/a/item.json", "https://h/b/x.tif"),
        ("/x.tif", "https://h/a/item.json", "https://h/x.tif"),
        ("//other/x.tif", "https://h/a/item.json", "https://other/x.tif"),
        ("x.tif", "s3://bucket/a/item.json", "s3://bucket/a/x.tif"),
        ("../x.tif", "s3://bucket/a/item.json", "s3://bucket/x.tif"),
        ("../../../x.tif", "https://h/a/item.json", "https://h/x.tif"),
        ("x.tif", "", "x.tif"),
        ("./sub/../x.tif", "", "x.tif"),
        ("../x.tif", "items/2024", "items/x.tif"),
        ("ä b.tif", "items", "items/ä b.tif"),
    ],
)
def test_hrefs_are_relative_to_where_the_item_was_read(href: str, base: str, resolved: str) -> None:
    assert resolve_href(href, base) == resolved


def test_absolute_local_hrefs_are_kept_relative_to_their_root(tmp_path: Path) -> None:
    root = tmp_path / "my scenes"
    for href in (str(root / "a" / "x.tif"), (root / "a" / "x.tif").as_uri()):
        assert resolve_href(href, "", (str(tmp_path / "other"), str(root))) == "a/x.tif"


def test_local_hrefs_outside_the_roots_are_refused_without_saying_where(tmp_path: Path) -> None:
    for href in ("/etc/passwd", "file:///etc/passwd", str(tmp_path / "secret" / "passwd")):
        with pytest.raises(HrefRefusedError, match=r"local file 'passwd' is outside local_roots") as caught:
            resolve_href(href, "", (str(tmp_path / "root"),))
        assert str(tmp_path) not in str(caught.value)


def test_an_item_of_a_network_names_no_local_file(tmp_path: Path) -> None:
    """By RFC 3986 an absolute path is one of the item's host, whatever lies at it here."""
    (tmp_path / "a.tif").touch()
    base, roots = "https://h/items/item.json", (str(tmp_path),)
    assert resolve_href(str(tmp_path / "a.tif"), base, roots) == f"https://h{tmp_path}/a.tif"
    for href in (f"file://{tmp_path}/a.tif", f"FILE://{tmp_path}/a.tif", f"file:{tmp_path}/a.tif"):
        with pytest.raises(HrefRefusedError, match="names a local file"):
            resolve_href(href, base, roots)


def test_a_file_that_two_roots_have_is_refused(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "red.tif").touch()
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    with pytest.raises(HrefRefusedError, match=r"'red\.tif' is below 2 of the local_roots"):
        locate("red.tif", (one, other))
    assert locate("red.tif", (one, one)) == locate("red.tif", (one,))


@pytest.mark.parametrize(
    "href", ["https://h/export?sr=4326&st=2&format=tif", "https://h/x?policy=open&expires=never", "https://h/x?sv=1"]
)
def test_parameters_that_belong_to_no_signature_stay(href: str) -> None:
    assert unsigned_href(href) == href
    assert unsigned_href(f"{href}&sig=SECRET&Signature=SECRET").count("SECRET") == 0


@pytest.mark.parametrize(
    "href",
    ["", " x.tif", "x.tif ", "x\n.tif", "https://h/x\r\nHost: y", "a\x00b", "x\x7f.tif"],
)
def test_control_characters_and_outer_spaces_are_refused(href: str, tmp_path: Path) -> None:
    with pytest.raises(HrefRefusedError, match="is empty or holds control characters or outer spaces"):
        resolve_href(href, "")
    with pytest.raises(HrefRefusedError, match="is empty or holds control characters or outer spaces"):
        locate(href, (str(tmp_path),))


@pytest.mark.parametrize("scheme", ["ftp", "gopher", "data", "javascript", "zip", "tar", "WMS", "git+ssh"])
def test_other_schemes_are_refused(scheme: str) -> None:
    with pytest.raises(HrefRefusedError, match=r"has scheme '.*'; allowed are https, http, s3, gs, az") as caught:
        resolve_href(f"{scheme}://h/x.tif?sig=SECRET", "")
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    "href",
    [
        "/vsicurl/http://h/x.tif",
        "/vsizip/a.zip/x.tif",
        "/VSIMEM/x.tif",
        "vsis3/bucket/x.tif",
        "//vsitar/x.tar",
        "<VRTDataset/>",
        "x<y.tif",
    ],
)
def test_names_of_gdal_handlers_are_refused(href: str, tmp_path: Path) -> None:
    with pytest.raises(HrefRefusedError, match="names a GDAL handler"):
        resolve_href(href, "")
    with pytest.raises(HrefRefusedError, match="names a GDAL handler"):
        locate(href, (str(tmp_path),))


def test_no_refusal_shows_a_signature() -> None:
    for href in ("https://h/x<.tif?sig=SECRET", "https://u:SECRET@h/x\n.tif?sig=SECRET", "odd://u:SECRET@h/"):
        with pytest.raises(HrefRefusedError) as caught:
            resolve_href(href, "")
        assert "SECRET" not in str(caught.value)


def test_a_file_whose_name_only_begins_like_a_handler_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "vsite.tif").touch()
    assert locate("vsite.tif", (str(tmp_path),)) == str(tmp_path / "vsite.tif")


def test_files_are_found_below_the_first_root_that_holds_them(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for root in (one, two):
        root.mkdir()
    (two / "x.tif").touch()
    assert locate("x.tif", (str(one), str(two))) == str(two / "x.tif")
    assert locate("https://h/x.tif", ()) == "https://h/x.tif"
    with pytest.raises(HrefRefusedError, match=r"may not be read: name the folder .* by local_roots or --local-root"):
        locate("x.tif", ())
    with pytest.raises(ReadError, match=r"'y\.tif' is not there, in none of the 2 local_roots"):
        locate("y.tif", (str(one), str(two)))


def test_nothing_leads_out_of_a_root(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside.tif"
    root.mkdir()
    outside.touch()
    (root / "link.tif").symlink_to(outside)
    (root / "folder").symlink_to(tmp_path, target_is_directory=True)
    (root / "inner.tif").symlink_to(root / "real.tif")
    (root / "real.tif").touch()
    for href in ("../outside.tif", "link.tif", "folder/outside.tif", str(outside), "x/../../outside.tif"):
        with pytest.raises(HrefRefusedError):
            locate(href, (str(root),))
    assert locate("inner.tif", (str(root),)) == str(root / "real.tif")
    for href in ("link.tif", "folder/outside.tif"):
        with pytest.raises(HrefRefusedError):
            resolve_href(str(root / href), "", (str(root),))


@pytest.mark.parametrize("name", ["x" * 5000, "a/" * 3000, "loop/x.tif"])
def test_paths_that_no_file_can_have_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(HrefRefusedError):
        locate(name, (str(tmp_path),))
    with pytest.raises(HrefRefusedError):
        resolve_href(f"/etc/{name}", "", (str(tmp_path),))
    with pytest.raises(HrefRefusedError):
        resolve_href(f"{tmp_path}/loop/x.tif", "", (str(tmp_path),))


@pytest.mark.parametrize("href", ["http://[::1/x.tif", "https://[x]/x.tif", "http:x.tif"])
def test_broken_urls_are_refused(href: str, tmp_path: Path) -> None:
    with pytest.raises((HrefRefusedError, ReadError)):
        locate(resolve_href(href, "", (str(tmp_path),)), (str(tmp_path),))


@pytest.mark.skipif(os.getuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_entered_is_refused(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0)
    with pytest.raises(HrefRefusedError):
        locate("locked/x.tif", (str(tmp_path),))


@pytest.mark.parametrize("href", ["https://h/x", "HTTP://h/x", "s3://b/x", "gs://b/x", "az://b/x"])
def test_objects_on_networks_are_remote(href: str) -> None:
    assert is_remote(href)


@pytest.mark.parametrize("href", ["x.tif", "/x", "file:///x", "C:\\x", "ftp://h/x", ""])
def test_everything_else_is_not_remote(href: str) -> None:
    assert not is_remote(href)


def test_storage_says_the_same_to_fsspec_and_gdal() -> None:
    storage = Storage(endpoint="http://127.0.0.1:9000", region="eu-x", anonymous=True, requester_pays=True)
    assert storage.fsspec_options("s3") == {
        "anon": True,
        "requester_pays": True,
        "endpoint_url": "http://127.0.0.1:9000",
        "client_kwargs": {"region_name": "eu-x"},
    }
    assert storage.gdal_options() == {
        "AWS_NO_SIGN_REQUEST": "YES",
        "AWS_S3_ENDPOINT": "127.0.0.1:9000",
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
        "AWS_REGION": "eu-x",
        "AWS_REQUEST_PAYER": "requester",
    }
    assert Storage().gdal_options() == {}
    assert storage.fsspec_options("file") == storage.fsspec_options("memory") == {}


def test_storage_holds_no_credentials_and_never_changes() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        Storage(key="a")  # type: ignore[call-arg]
    assert not any(re.search("key|secret|token|password", name) for name in Storage.model_fields)
    with pytest.raises(ValidationError, match="frozen"):
        Storage().region = "x"  # type: ignore[misc]
