"""Referred: what a publish refers to and has not put itself must be in storage."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from aotcache.core.places import Place, Places
from aotcache.errors import ObjectMissingError
from aotcache.protocol.manifest import PackPlace
from aotcache.protocol.names import pack_key
from aotcache.sync.site import Site

logger = logging.getLogger(__name__)


class Referred:
    """Remembers which packs are surely stored, so that each is asked for once."""

    def __init__(self, site: Site, namespace: str, sure: Iterable[str]) -> None:
        self._site = site
        self._namespace = namespace
        self._sure = set(sure)

    def know(self, pack: str) -> None:
        """This pack was put just now."""
        self._sure.add(pack)

    def drop_lost(self, places: Places, digests: Iterable[str]) -> None:
        """Look whether the packs of these blobs (those with a place) are stored, and forget every
        place that cannot be read without one that is not."""
        packs: dict[str, PackPlace] = {}
        for digest in digests:
            if place := places.by_digest.get(digest):
                found = [places.by_digest.get(prefix) for prefix in places.prefixes_of(place)]
                packs |= {one.pack.name: one.pack for one in (place, *found) if one is not None}
        asked = [pack for name, pack in packs.items() if name not in self._sure]
        with ThreadPoolExecutor(8, thread_name_prefix="aotcache-pack") as pool:
            there = list(pool.map(self._is_stored, asked))
        lost = {pack.name for pack, stored in zip(asked, there, strict=True) if not stored}
        self._sure |= packs.keys() - lost
        for name in sorted(lost):
            logger.warning("pack %s is lost: what this publish needs of it is packed again", name)

        def usable(place: Place) -> bool:
            return place.pack.name not in lost and all(
                (base := places.by_digest.get(prefix)) is not None
                and base.pack.name not in lost
                and not places.prefixes_of(base)
                for prefix in places.prefixes_of(place)
            )

        useless = [digest for digest, place in places.by_digest.items() if not usable(place)]
        for digest in useless:
            del places.by_digest[digest]

    def _is_stored(self, pack: PackPlace) -> bool:
        try:
            return self._site.store.size(pack_key(self._namespace, pack.name)) == pack.size
        except ObjectMissingError:
            return False
