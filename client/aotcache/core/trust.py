"""Trust: Ed25519 keys, signatures over statements, and the policy that decides what is accepted.

Loading a cache is running code, so a node verifies for itself: neither storage nor service can
forge a part. Verification comes before anything of the statement is decompressed or parsed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from aotcache.errors import TrustError, UsageError
from aotcache.protocol.manifest import Manifest, decode_manifest
from aotcache.protocol.names import check_key_id
from aotcache.protocol.sections import (
    ReadBase,
    Sections,
    Signature,
    no_base,
    signed_message,
    split_manifest,
)

SIGNED, UNSIGNED = "signed", "unsigned"
_PREFIX, _REVOKED = "aotcache-ed25519", "revoked"
_PEM_HEAD, _PEM_TAIL = ["-----BEGIN", "PRIVATE", "KEY-----"], ["-----END", "PRIVATE", "KEY-----"]
_PKCS8 = bytes.fromhex("302e020100300506032b657004220420")


def key_id(key: Ed25519PublicKey) -> str:
    """32 hex characters: the start of the SHA-256 of the raw public key."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A publisher's private key. Its repr shows only the key id."""

    private: Ed25519PrivateKey = field(repr=False)

    @property
    def id(self) -> str:
        return key_id(self.private.public_key())

    def sign(self, statement_bytes: bytes, *, on_base: bool = False) -> Signature:
        message = signed_message(statement_bytes, on_base=on_base)
        return Signature(self.id, self.private.sign(message))

    def public_line(self, comment: str = "") -> str:
        """One line for a file of trusted keys: `aotcache-ed25519 BASE64 comment`."""
        raw = base64.b64encode(self.private.public_key().public_bytes_raw()).decode()
        return f"{_PREFIX} {raw} {comment}".rstrip()

    def pem(self) -> bytes:
        from cryptography.hazmat.primitives import serialization

        return self.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def generate_key() -> SigningKey:
    return SigningKey(Ed25519PrivateKey.generate())


def load_signing_key(pem: bytes, where: str) -> SigningKey:
    """Raises UsageError naming `where` (a path), never showing the content."""
    if (seed := _seed(pem)) is not None:
        return SigningKey(Ed25519PrivateKey.from_private_bytes(seed))
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{where} is not an unencrypted PEM private key") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise UsageError(f"{where} is not an Ed25519 key; make one with `aotcache key generate`")
    return SigningKey(private)


def _seed(pem: bytes) -> bytes | None:
    """The 32 bytes of a key in the one form that RFC 8410 gives it, as we write it; None: another
    form. The library's reader of all forms takes longer to import than a small pull."""
    lines = pem.decode("latin-1").split()
    if lines[:3] + lines[-3:] != _PEM_HEAD + _PEM_TAIL:
        return None
    try:
        der = base64.b64decode("".join(lines[3:-3]), validate=True)
    except binascii.Error:
        return None
    return der[16:] if der[:16] == _PKCS8 and len(der) == 48 else None


@dataclass(frozen=True, slots=True)
class TrustedKey:
    id: str
    key: Ed25519PublicKey = field(repr=False)
    comment: str = ""


class Keyring(msgspec.Struct, frozen=True):
    """Whose signatures count here. revoked: ids of keys that never do, whoever trusts them."""

    trusted: tuple[TrustedKey, ...] = ()
    revoked: frozenset[str] = frozenset()

    def plus(self, key: SigningKey | None) -> Keyring:
        """This machine's own key too: who publishes here trusts what was published from here."""
        if key is None:
            return self
        own = parse_trusted_keys(key.public_line(), "the signing key").trusted
        return Keyring((*self.trusted, *own), self.revoked)

    @property
    def usable(self) -> dict[str, TrustedKey]:
        return {key.id: key for key in self.trusted if key.id not in self.revoked}


def parse_trusted_keys(text: str, where: str) -> Keyring:
    """Lines of `aotcache-ed25519 BASE64 comment`, or `revoked ID comment`; empty lines and `#`
    lines are skipped."""
    keys, revoked = [], set()
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split(maxsplit=2)
        if not words or words[0].startswith("#"):
            continue
        try:
            if words[0] == _REVOKED:
                revoked.add(check_key_id(words[1]))
                continue
            if words[0] != _PREFIX:
                raise ValueError(words[0])
            raw = base64.b64decode(words[1], validate=True)
            public = Ed25519PublicKey.from_public_bytes(raw)
        except (ValueError, IndexError, binascii.Error) as error:
            raise UsageError(
                f"{where}, line {number}: neither a public key (`{_PREFIX} BASE64 comment`) nor "
                f"`{_REVOKED} ID`"
            ) from error
        keys.append(TrustedKey(key_id(public), public, words[2] if len(words) > 2 else ""))
    return Keyring(tuple(keys), frozenset(revoked))


def revoked_line(key: str, comment: str = "") -> str:
    return f"{_REVOKED} {key} {comment}".rstrip()


class TrustPolicy(msgspec.Struct, frozen=True):
    """`signed`: a statement needs a good signature by one of the keys. `unsigned`: none is
    asked."""

    mode: str
    keys: dict[str, TrustedKey] = {}

    def accept(self, data: bytes, what: str, read: ReadBase = no_base) -> Manifest:
        """Decode a manifest if it may be trusted. `what` names the part in messages; `read`: as for
        `decode_manifest`, and not called for what is not trusted.

        Raises TrustError, or ManifestError where the bytes are not a manifest.
        """
        if self.mode == SIGNED:
            self._verify(split_manifest(data), what)
        return decode_manifest(data, read)

    def _verify(self, sections: Sections, what: str) -> None:
        message = signed_message(sections.statement, on_base=sections.base > 0)
        forged = None
        for signature in sections.signatures:
            trusted = self.keys.get(signature.key)
            if trusted is None:
                continue
            try:
                trusted.key.verify(signature.sig, message)
            except InvalidSignature:
                forged = signature.key
                continue
            return
        if forged is not None:
            raise TrustError(
                f"{what}: the signature of key {forged} does not fit: the manifest was changed "
                "after it was signed. Nothing was installed; find out who wrote it"
            )
        signers = ", ".join(signature.key for signature in sections.signatures) or "nobody"
        raise TrustError(
            f"{what}: signed by {signers}, and none of the {len(self.keys)} trusted keys is among "
            "them. Nothing was installed; trust the publisher's key with `aotcache key trust`"
        )


def make_policy(mode: str, keyring: Keyring) -> TrustPolicy:
    """The policy of a node: `signed` as soon as a key is trusted; `unsigned` only when asked
    for."""
    if mode not in (SIGNED, UNSIGNED, ""):
        raise UsageError(f"trust policy {mode!r}: there are `{SIGNED}` and `{UNSIGNED}`")
    if mode == UNSIGNED:
        return TrustPolicy(UNSIGNED)
    keys = keyring.usable
    if not keys:
        raise UsageError(
            "no trusted key: loading a compile cache runs its code. Trust a publisher's key with "
            "`aotcache key trust`, or say AOTCACHE_TRUST=unsigned if everyone who can write to "
            "this service may run code here"
        )
    return TrustPolicy(SIGNED, keys)
