"""Optional detached signatures of model manifests: Ed25519 over the file's bytes, 64 raw bytes in `model_manifest.json.sig`.

Keys are PEM files (PKCS #8 private, SubjectPublicKeyInfo public) that environment variables name, so that
`openssl pkeyutl -verify -rawin -pubin -inkey KEY -sigfile model_manifest.json.sig -in model_manifest.json` checks the same. The
package `cryptography` is imported only where a key is configured (extra `signing`). A manifest has every model's hash, so that its
signature covers the models; it does not tell the latest manifest from an earlier one that was signed by the same key.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ringrift_dagster.models.publishing.reasons import PublishingRefused

if TYPE_CHECKING:
    from ringrift_dagster.models.publishing.published_set import Signer, Verifier

SIGNING_KEY: Final = "RINGRIFT_MODEL_SIGNING_KEY"
"""Names the file with the private key: manifests that are published are signed."""
VERIFYING_KEY: Final = "RINGRIFT_MODEL_VERIFYING_KEY"
"""Names the file with the public key: manifests without a signature by it are refused."""
_MAX_KEY_BYTES: Final = 16 << 10


def configured_signer() -> Signer | None:
    """What signs manifests here; None where no key is configured. Raises PublishingRefused if the key is of no use."""
    path = os.environ.get(SIGNING_KEY)
    return signer(Path(path)) if path else None


def configured_verifier() -> Verifier | None:
    """What checks signatures here; None where no key is configured. Raises PublishingRefused if the key is of no use."""
    path = os.environ.get(VERIFYING_KEY)
    return verifier(Path(path)) if path else None


def signer(path: Path) -> Signer:
    """Signs with the private key of a file, without a password. Raises PublishingRefused."""
    content = _key_bytes(path)
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        key = load_pem_private_key(content, password=None)
    except Exception as error:  # ImportError, and whatever the library raises for what is no key
        raise _no_key(path, error) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise PublishingRefused("no_key", f"{path} is no Ed25519 private key")
    return key.sign


def verifier(path: Path) -> Verifier:
    """Checks signatures by the key whose public half is in a file. Raises PublishingRefused, now and when it is called."""
    content = _key_bytes(path)
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        key = load_pem_public_key(content)
    except Exception as error:
        raise _no_key(path, error) from error
    if not isinstance(key, Ed25519PublicKey):
        raise PublishingRefused("no_key", f"{path} is no Ed25519 public key")

    def verify(manifest: bytes, signature: bytes) -> None:
        try:
            key.verify(signature, manifest)
        except InvalidSignature as error:
            raise PublishingRefused("bad_signature", f"the manifest is not what the owner of {path.name} signed") from error

    return verify


def _key_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_KEY_BYTES)
    except OSError as error:
        raise PublishingRefused("no_key", f"{path}: {error.strerror}") from error


def _no_key(path: Path, error: Exception) -> PublishingRefused:
    if isinstance(error, ImportError):
        return PublishingRefused("no_key", f"{path} is configured, but the package cryptography is not installed (extra: signing)")
    return PublishingRefused("no_key", f"{path} is no PEM file with an Ed25519 key and no password")
