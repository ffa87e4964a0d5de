import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aotcache.core.trust import (
    SIGNED,
    UNSIGNED,
    Keyring,
    SigningKey,
    generate_key,
    load_signing_key,
    make_policy,
    parse_trusted_keys,
)
from aotcache.errors import ManifestError, TrustError, UsageError
from aotcache.protocol.manifest import (
    encode_manifest,
    encode_statement,
)
from aotcache.protocol.sections import STATEMENT_TYPE, Signature, signed_message
from support.stored import make_manifest

STATEMENT, LOCATIONS = make_manifest()
SIGNED_BYTES = encode_statement(STATEMENT)
TRUSTED, ALSO_TRUSTED, STRANGER = generate_key(), generate_key(), generate_key()
LINES = f"# keys\n\n{TRUSTED.public_line('the builder, in CI')}\n  {ALSO_TRUSTED.public_line()}\n"


def good(key: SigningKey) -> Signature:
    return key.sign(SIGNED_BYTES)


def bad(key: SigningKey) -> Signature:
    return key.sign(SIGNED_BYTES + b"x")


def manifest(*signatures: Signature) -> bytes:
    return encode_manifest(SIGNED_BYTES, LOCATIONS, signatures)


@pytest.mark.parametrize(
    "signatures",
    [
        (good(TRUSTED),),
        (good(ALSO_TRUSTED),),
        (good(STRANGER), good(TRUSTED)),
        (bad(STRANGER), good(TRUSTED)),
        (good(TRUSTED), good(ALSO_TRUSTED)),
    ],
)
def test_accepted(signatures: tuple[Signature, ...]) -> None:
    policy = make_policy(SIGNED, parse_trusted_keys(LINES, "keys"))
    assert policy.accept(manifest(*signatures), "the tree").statement == STATEMENT


@pytest.mark.parametrize(
    ("signatures", "said"),
    [
        ((), "signed by nobody"),
        ((good(STRANGER),), f"signed by {STRANGER.id}"),
        ((bad(TRUSTED),), "was changed after it was signed"),
        ((good(STRANGER), bad(TRUSTED)), "was changed after it was signed"),
        ((Signature(TRUSTED.id, good(STRANGER).sig),), "does not fit"),
        ((Signature(TRUSTED.id, b""),), "does not fit"),
        ((Signature("0" * 32, good(TRUSTED).sig),), "none of the 2 trusted keys"),
    ],
)
def test_refused(signatures: tuple[Signature, ...], said: str) -> None:
    policy = make_policy("", parse_trusted_keys(LINES, "keys"))
    with pytest.raises(TrustError, match=said) as caught:
        policy.accept(manifest(*signatures), "the tree")
    assert "the tree" in str(caught.value)
    # Who asks for no signature gets what they asked for.
    assert make_policy(UNSIGNED, []).accept(manifest(*signatures), "it").statement == STATEMENT


def test_nothing_is_read_before_it_is_trusted() -> None:
    """The statement is no zstd frame; only who could be trusted learns that."""
    rubbish = b"not a frame"
    policy = make_policy(SIGNED, parse_trusted_keys(LINES, "keys"))
    with pytest.raises(TrustError):
        policy.accept(encode_manifest(rubbish, LOCATIONS, ()), "the tree")
    with pytest.raises(ManifestError):
        policy.accept(encode_manifest(rubbish, LOCATIONS, (TRUSTED.sign(rubbish),)), "the tree")


def test_what_is_no_manifest_is_not_a_matter_of_trust() -> None:
    for mode in (SIGNED, UNSIGNED):
        policy = make_policy(mode, parse_trusted_keys(LINES, "keys"))
        with pytest.raises(ManifestError):
            policy.accept(b"rubbish", "the tree")


def test_the_signed_message_is_dsse() -> None:
    assert signed_message(b"hello", on_base=False) == f"DSSEv1 47 {STATEMENT_TYPE} 5 hello".encode()


@pytest.mark.parametrize("mode", ["", SIGNED])
def test_a_policy_without_keys_has_to_be_asked_for(mode: str) -> None:
    with pytest.raises(UsageError, match="aotcache key trust"):
        make_policy(mode, Keyring())


@pytest.mark.parametrize("mode", ["", SIGNED])
def test_a_trusted_key_makes_the_policy_signed(mode: str) -> None:
    policy = make_policy(mode, parse_trusted_keys(LINES, "keys"))
    assert policy.mode == SIGNED
    assert set(policy.keys) == {TRUSTED.id, ALSO_TRUSTED.id}


def test_unsigned_asks_for_no_key() -> None:
    policy = make_policy(UNSIGNED, parse_trusted_keys(LINES, "keys"))
    assert (policy.mode, policy.keys) == (UNSIGNED, {})


def test_other_modes_are_refused() -> None:
    with pytest.raises(UsageError, match="'none'"):
        make_policy("none", Keyring())


def test_trusted_keys_have_ids_and_comments() -> None:
    keys = parse_trusted_keys(LINES, "keys")
    assert [(key.id, key.comment) for key in keys.trusted] == [
        (TRUSTED.id, "the builder, in CI"),
        (ALSO_TRUSTED.id, ""),
    ]
    assert parse_trusted_keys("# none\n\n", "keys") == Keyring()


def test_a_revoked_key_is_trusted_by_no_line() -> None:
    signed = manifest(good(TRUSTED))
    also = manifest(good(TRUSTED), good(ALSO_TRUSTED))
    for text in (f"{LINES}revoked {TRUSTED.id} lost\n", f"revoked {TRUSTED.id}\n{LINES}"):
        policy = make_policy(SIGNED, parse_trusted_keys(text, "keys"))
        with pytest.raises(TrustError, match=TRUSTED.id):
            policy.accept(signed, "it")
        # Exactly its parts: what another key vouches for too stays good.
        policy.accept(also, "it")
    ring = parse_trusted_keys(f"revoked {TRUSTED.id}\n", "keys")
    assert ring.plus(TRUSTED).usable == {}
    assert set(ring.plus(ALSO_TRUSTED).usable) == {ALSO_TRUSTED.id}
    with pytest.raises(UsageError, match="no trusted key"):
        make_policy(SIGNED, ring.plus(TRUSTED))


@pytest.mark.parametrize(
    "line",
    [
        "aotcache-ed25519",
        "aotcache-ed25519 !!!",
        "aotcache-ed25519 AAAA",
        "aotcache-ed25519 é",
        f"ssh-ed25519 {TRUSTED.public_line().split()[1]}",
        TRUSTED.public_line().split()[1],
        "revoked",
        "revoked me",
    ],
)
def test_lines_that_are_no_key_are_refused_by_number(line: str) -> None:
    with pytest.raises(UsageError, match="/etc/keys, line 5: neither a public key"):
        parse_trusted_keys(f"{LINES}{line}\n", "/etc/keys")


def test_a_private_key_survives_its_file_and_is_never_shown() -> None:
    key = load_signing_key(TRUSTED.pem(), "key.pem")
    assert key.id == TRUSTED.id
    assert key.sign(b"x") == TRUSTED.sign(b"x")
    assert repr(key) == "SigningKey()"


def private_pem(*, encrypted: bool) -> bytes:
    lock = (
        serialization.BestAvailableEncryption(b"secret")
        if encrypted
        else serialization.NoEncryption()
    )
    key = Ed25519PrivateKey.generate() if encrypted else ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"rubbish",
        TRUSTED.public_line().encode(),
        TRUSTED.pem()[:60],
        private_pem(encrypted=True),
        private_pem(encrypted=False),
    ],
)
def test_other_keys_are_refused_without_showing_them(pem: bytes) -> None:
    with pytest.raises(UsageError, match=r"key\.pem") as caught:
        load_signing_key(pem, "key.pem")
    assert not pem or pem.decode() not in str(caught.value)


def test_openssl_makes_keys_too(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", path], check=True)
    key = load_signing_key(path.read_bytes(), str(path))
    (trusted,) = parse_trusted_keys(key.public_line(), "keys").trusted
    assert trusted.id == key.id


def test_our_own_form_of_a_key_is_read_whatever_its_lines_end_with() -> None:
    ours = generate_key()
    assert load_signing_key(ours.pem(), "key").id == ours.id
    with_windows_lines = ours.pem().replace(b"\n", b"\r\n")
    assert load_signing_key(with_windows_lines, "key").id == ours.id
    cut = ours.pem().replace(b"MC4", b"MC5")
    with pytest.raises(UsageError):
        load_signing_key(cut, "key")
