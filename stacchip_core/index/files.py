"""The files of an item while it is indexed: opened as they are needed, and known again by what they were then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stacchip_core.errors import StacchipError
from stacchip_core.sources.access import Storage, is_remote, locate
from stacchip_core.sources.cog import Raster, RasterRef, open_raster, read_identity
from stacchip_core.sources.identity import UNKNOWN, FileIdentity
from stacchip_core.sources.scene import Scene, SceneAsset

_AT_ONCE = 8  # files asked for their identity


class ItemFiles:
    """Opens the files of one scene."""

    def __init__(self, scene: Scene, sizes: Mapping[str, int], storage: Storage, local_roots: tuple[str, ...]) -> None:
        """Open nothing yet; `sizes` are those that the item gives, by asset key."""
        self._scene, self._sizes, self._storage, self._roots = scene, sizes, storage, local_roots
        self._opened: dict[str, FileIdentity] = {}

    def open(self, asset: SceneAsset) -> Raster:
        """An asset's file.

        Raises:
            HrefRefusedError, ReadError, TransientReadError: see `open_raster`.
        """
        raster = open_raster(self._ref(asset))
        self._opened[asset.key] = raster.identity
        return raster

    def identities(self, *, is_asking: bool = False) -> dict[str, FileIdentity]:
        """What is known without asking for more, by asset key: of files opened, files at hand, files described.

        The sizes that an item gives are believed where those of the files opened prove right. With `is_asking`, remote
        files that were not opened are asked, one request each.
        """
        proofs = [self._sizes[key] == one.size for key, one in self._opened.items() if key in self._sizes and one.size]
        described = self._sizes if proofs and all(proofs) else {}
        qa = self._scene.qa_asset
        assets = {asset.key: asset for asset in (*self._scene.assets, *((qa,) if qa else ()))}
        at_hand = {key: self._at_hand(asset.href) for key, asset in assets.items() if not is_remote(asset.href)}
        known = {**at_hand, **self._opened}
        asked = self._asked([asset for key, asset in assets.items() if is_asking and key not in known])
        return {**{key: FileIdentity(size) for key, size in described.items()}, **asked, **known}

    def _asked(self, assets: Sequence[SceneAsset]) -> dict[str, FileIdentity]:
        """What the servers of some assets tell, where they tell anything."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            told = pool.map(lambda asset: (asset.key, read_identity(self._ref(asset))), assets)
            return {key: identity for key, identity in told if identity != UNKNOWN}

    def _ref(self, asset: SceneAsset) -> RasterRef:
        return RasterRef(
            *(asset.href, self._scene.item_id, asset.key, asset.media_type, self._storage, self._roots),
            nodata=asset.nodata,
            layers=len(asset.layers),
            host=self._scene.host,
        )

    def _at_hand(self, href: str) -> FileIdentity:
        """Of a local file; nothing where there is none, which is told when it is to be cut."""
        try:
            return FileIdentity(Path(locate(href, self._roots)).stat().st_size)
        except (StacchipError, OSError):
            return UNKNOWN
