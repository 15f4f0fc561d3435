"""Signatures of manifests: by the right key over the right bytes, or refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ringrift_dagster.models.publishing.published_set import MANIFEST, SIGNATURE, check_set, publish
from ringrift_dagster.models.publishing.reasons import PublishingRefused
from ringrift_dagster.models.publishing.signature import (
    SIGNING_KEY,
    VERIFYING_KEY,
    configured_signer,
    configured_verifier,
    signer,
    verifier,
)
from tests.models.publishing.making import model_file


def keys(folder: Path, name: str, key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | None = None) -> tuple[Path, Path]:
    """Files with a new key's private and public half."""
    key = key or ed25519.Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_a_set_is_signed_and_the_signature_checked(tmp_path: Path) -> None:
    private, public = keys(tmp_path, "ours")
    directory = tmp_path / "published"
    sign, verify = signer(private), verifier(public)
    publish(directory, {"hex8_2p": model_file(tmp_path, "one", 1.0)}, sign=sign)
    assert check_set(directory, verify) == []
    assert not publish(directory, {}, sign=sign).switched
    publish(directory, {"hex8_3p": model_file(tmp_path, "two", 2.0)}, sign=sign)
    assert check_set(directory, verify) == []
    command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", public, "-sigfile", SIGNATURE, "-in", MANIFEST]
    assert subprocess.run(command, cwd=directory, capture_output=True, check=False).returncode == 0


def test_a_set_that_was_not_signed_is_signed_later_and_no_signature_outlives_its_manifest(tmp_path: Path) -> None:
    private, public = keys(tmp_path, "ours")
    directory, verify = tmp_path / "published", verifier(public)
    publish(directory, {"hex8_2p": model_file(tmp_path, "one", 1.0)})
    assert [finding.code for finding in check_set(directory, verify)] == ["no_signature"]
    signed = publish(directory, {}, sign=signer(private))
    assert (signed.switched, signed.changed) == (True, ())
    assert check_set(directory, verify) == []
    publish(directory, {"hex8_3p": model_file(tmp_path, "two", 2.0)})
    assert [finding.code for finding in check_set(directory, verify)] == ["no_signature"]


def test_another_key_another_manifest_and_garbage_are_refused(tmp_path: Path) -> None:
    private, public = keys(tmp_path, "ours")
    other_private, _ = keys(tmp_path, "other")
    verify, good = verifier(public), signer(private)(b"manifest")
    verify(b"manifest", good)
    for content, signature in (
        (b"manifest", signer(other_private)(b"manifest")),
        (b"manifesto", good),
        (b"manifest", b""),
        (b"manifest", good[:-1]),
        (b"manifest", good + b"\n"),
    ):
        with pytest.raises(PublishingRefused, match="bad_signature"):
            verify(content, signature)


def test_a_signature_over_another_manifest_is_reported(tmp_path: Path) -> None:
    private, public = keys(tmp_path, "ours")
    directory = tmp_path / "published"
    publish(directory, {"hex8_2p": model_file(tmp_path, "one", 1.0)}, sign=lambda _: signer(private)(b"something else"))
    assert [finding.code for finding in check_set(directory, verifier(public))] == ["bad_signature"]


def test_keys_are_those_that_the_environment_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = keys(tmp_path, "ours")
    monkeypatch.delenv(SIGNING_KEY, raising=False)
    monkeypatch.delenv(VERIFYING_KEY, raising=False)
    assert configured_signer() is None
    assert configured_verifier() is None
    monkeypatch.setenv(SIGNING_KEY, str(private))
    monkeypatch.setenv(VERIFYING_KEY, str(public))
    sign, verify = configured_signer(), configured_verifier()
    assert sign is not None
    assert verify is not None
    verify(b"manifest", sign(b"manifest"))


def test_a_key_that_is_configured_and_of_no_use_is_refused(tmp_path: Path) -> None:
    private, public = keys(tmp_path, "ours")
    rsa_private, rsa_public = keys(tmp_path, "rsa", rsa.generate_private_key(65537, 2048))
    (tmp_path / "garbage").write_bytes(b"\0" * 100)
    for path in (tmp_path / "nowhere", tmp_path / "garbage", tmp_path, public, rsa_private):
        with pytest.raises(PublishingRefused, match="no_key"):
            signer(path)
    for path in (tmp_path / "nowhere", tmp_path / "garbage", private, rsa_public):
        with pytest.raises(PublishingRefused, match="no_key"):
            verifier(path)
