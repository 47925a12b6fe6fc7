"""The gate's tests' test: its guards are switched off, one at a time, and a test or an attack notices each time.

What is off lets nothing out: a resolver and a connector that answer for the whole network stand in (`hostile_world`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import rasterio

from stacchip_core import Storage
from stacchip_core.errors import HrefRefusedError, StacchipError
from stacchip_core.sources import access, gate, hrefs
from stacchip_core.sources import item as items
from stacchip_core.sources.cog import RasterRef, open_raster, opening
from stacchip_core.sources.gate import Gate, Origin
from tests import test_access, test_hostile, test_hostile_hrefs
from tests.guards import Check, Notice, Patch, constant
from tests.hostile_world import World, failures, indexed, refuses, scene, watching

_NEVER, _ALWAYS = re.compile(r"(?!)"), re.compile(r"(?s).*")


# --- what is switched off


def look_before_connecting(patch: Patch) -> None:
    """What the resolver says is taken as it is."""
    _check_peers(patch, while_looking=False)


def look_after_connecting(patch: Patch) -> None:
    """Whom a connection came out at is not asked."""
    _check_peers(patch, while_looking=True)


def _check_peers(patch: Patch, *, while_looking: bool) -> None:
    """One of the two looks at an address is left: at those the resolver gave, or at the one connected to."""
    addresses, check_peer = Gate.addresses, Gate.check_peer
    under_way: list[Origin] = []

    def looking(self: Gate, origin: Origin) -> tuple[str, ...]:
        under_way.append(origin)
        try:
            return addresses(self, origin)
        finally:
            under_way.pop()

    def checking(self: Gate, origin: Origin, address: str) -> None:
        if bool(under_way) is while_looking:
            check_peer(self, origin, address)

    patch.setattr(Gate, "addresses", looking)
    patch.setattr(Gate, "check_peer", checking)


def redirect(patch: Patch) -> None:
    """A server may point to any host that may be asked."""
    patch.setattr(Gate, "check_redirect", lambda self, _, href: self.check(href))


def roots_of_what_is_opened(patch: Patch) -> None:
    """A path is opened wherever it leads."""

    class Anywhere(type(Path())):  # type: ignore[misc]
        def is_relative_to(self, *_: object) -> bool:
            return True

    patch.setattr(access, "Path", Anywhere)


def drivers(patch: Patch) -> None:
    """GDAL opens whatever it can."""
    patch.setattr(opening, "_open", lambda path, _driver, _reader: rasterio.open(path, sharing=False))


# --- what notices


def in_world(test: Callable[[World], object]) -> Check:
    """A test of the hostile world, in one of its own; what must not be touched is looked at when it is over."""

    def check(patch: Patch, folder: Path) -> None:
        with watching(folder, patch) as world:
            test(world)

    return check


def harm(href: str, rule: str) -> Check:
    """An item with this href is a failure by this rule."""

    def check(patch: Patch, folder: Path) -> None:
        with watching(folder, patch) as world:
            world.names = {"inside.example": ["10.1.2.3"]}
            evil = scene(world, "evil")
            evil["assets"]["image"]["href"] = world.fill(href)
            assert refuses(failures(indexed(world, folder, [evil])).get("evil", ""), "evil", rule)

    return check


def absurdity(name: str) -> Check:
    """One of the absurd items is a failure by its rule."""

    def check(patch: Patch, folder: Path) -> None:
        rule, fields = test_hostile.absurd()[name]
        with watching(folder, patch) as world:
            found = failures(indexed(world, folder, [{**scene(world, name), **fields}]))
        assert f"(rule: {rule})" in found.get(name, "")

    return check


def a_bucket_has_the_characters_of_one(_: Patch, __: Path) -> None:
    """Nothing is opened: what GDAL would ask is no server of this machine."""
    with pytest.raises(HrefRefusedError, match="rule: bucket-name"):
        access.resolve_href("s3://bucket:80/x.tif", "")


def a_host_that_is_not_among_those_named_is_not_asked(world: World) -> None:
    world.names = {"public.example": ["93.184.216.34"]}
    storage = Storage(hosts=("data.example.org",))
    with pytest.raises(HrefRefusedError, match="rule: host-not-named"):
        open_raster(RasterRef("http://public.example/x.tif", "scene-1", "red", storage=storage))


def a_vrt_is_not_opened_though_its_first_bytes_pass(patch: Patch, folder: Path) -> None:
    patch.setattr(opening, "_check_format", lambda *_, **__: None)
    with watching(folder, patch) as world:
        text = test_hostile_hrefs.FILES["vrt.tif"].decode()
        (world.root / "vrt.tif").write_text(world.fill(text))
        with pytest.raises(StacchipError):
            open_raster(RasterRef("vrt.tif", "scene-1", "red", local_roots=(str(world.root),)))


def bomb(rule: str, **size: int) -> Check:
    return in_world(lambda world: test_hostile.test_bombs_are_refused_before_a_block_is_read(world, rule, size))


def redirects_to(location: str, rule: str) -> Check:
    return in_world(
        lambda world: test_hostile_hrefs.test_redirects_lead_to_named_hosts_or_nowhere(world, location, rule)
    )


def a_name_that_is_bound_anew(patch: Patch, folder: Path) -> None:
    with watching(folder, patch) as world:
        test_hostile_hrefs.test_a_name_that_is_bound_anew_after_it_was_looked_at_gains_nothing(world, patch)


_SCHEMES = (*hrefs.REMOTE_SCHEMES, "ftp")
NOTICES: Mapping[str, Notice] = {
    "scheme": Notice(
        constant(hrefs, REMOTE_SCHEMES=_SCHEMES), lambda *_: test_access.test_other_schemes_are_refused("ftp")
    ),
    "control characters": Notice(constant(hrefs, _CONTROLS=()), harm("x\u0085.tif", "characters")),
    "GDAL handler": Notice(
        constant(hrefs, _GDAL_HANDLER=_NEVER), harm("/vsicurl/http://127.0.0.1:{port}/x.tif", "gdal-handler")
    ),
    "driver prefix": Notice(constant(hrefs, _PREFIX=_NEVER), harm("GTIFF_DIR:1:{secret}", "driver-prefix")),
    "bucket name": Notice(constant(hrefs, _BUCKET=_ALWAYS), a_bucket_has_the_characters_of_one),
    "host spelling": Notice(
        constant(gate, _NUMBER_LIKE=_NEVER), harm("http://2130706433:{port}/x.tif", "host-spelling")
    ),
    "hosts named": Notice(
        constant(Gate, is_named=lambda *_: True), in_world(a_host_that_is_not_among_those_named_is_not_asked)
    ),
    "private address": Notice(
        constant(gate, _is_public=lambda _: True), harm("http://127.0.0.1:{port}/x.tif", "private-address")
    ),
    "private address of a name": Notice(look_before_connecting, harm("http://inside.example/x.tif", "private-address")),
    "link-local address": Notice(
        constant(gate, _is_special=lambda _: False), harm("http://169.254.169.254/x.tif", "special-address")
    ),
    "link-local address that the index calls its own": Notice(
        constant(gate, _is_special=lambda _: False),
        in_world(test_hostile.test_an_index_can_claim_no_metadata_server_for_its_own_host),
    ),
    "address after connecting": Notice(look_after_connecting, a_name_that_is_bound_anew),
    "redirect to a host not named": Notice(redirect, redirects_to("http://localhost:{port}/x.tif", "redirect")),
    "roots of hrefs": Notice(
        constant(access, _below_a_root=lambda path, _: str(path)),
        lambda _, folder: test_access.test_local_hrefs_outside_the_roots_are_refused_without_saying_where(folder),
    ),
    "roots of what is opened": Notice(
        roots_of_what_is_opened, lambda _, folder: test_access.test_nothing_leads_out_of_a_root(folder)
    ),
    "first bytes": Notice(
        constant(opening, _check_format=lambda *_, **__: None),
        in_world(test_hostile_hrefs.test_files_that_are_no_geotiff_are_not_handed_to_gdal),
    ),
    "drivers": Notice(drivers, a_vrt_is_not_opened_though_its_first_bytes_pass),
    "bytes of a block": Notice(
        constant(opening, MAX_BLOCK_BYTES=2**60), bomb("block-bytes", side=29_984, block=29_984)
    ),
    "pixels": Notice(constant(opening, MAX_PIXELS=2**60), bomb("raster-size", side=400_000, block=16_384)),
    "layers": Notice(constant(opening, MAX_LAYERS=2**60), bomb("raster-size", side=16, block=16, count=4097)),
    "assets of an item": Notice(constant(items, MAX_ASSETS=2**60), absurdity("many")),
    "characters of an item": Notice(constant(items, MAX_ITEM_CHARACTERS=2**60), absurdity("long")),
    "nesting of an item": Notice(constant(items, MAX_DEPTH=2**60), absurdity("deep")),
}


@pytest.mark.parametrize("what", list(NOTICES))
def test_what_the_gate_refuses_is_missed_by_a_test(what: str, tmp_path: Path) -> None:
    NOTICES[what].is_noticed(tmp_path)
