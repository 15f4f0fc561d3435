"""Where signatures are checked: a tree's manifest is one that was signed, the latest, and nothing else takes its place."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ringrift_dagster.models.manifest import (
    PATH,
    SIGNATURE_PATH,
    Current,
    ModelManifest,
    SignedManifest,
    note,
    note_signed,
    read_signed,
)
from ringrift_dagster.models.publishing.published_set import Signer, Verifier, publish, signed_manifest
from ringrift_dagster.models.publishing.reasons import PublishingRefused
from ringrift_dagster.models.publishing.signature import signer, verifier
from tests.models.publishing.making import model_file
from tests.models.publishing.test_signature import keys


@pytest.fixture
def sign(tmp_path: Path) -> Signer:
    return signer(keys(tmp_path, "ours")[0])


@pytest.fixture
def verify(sign: Signer, tmp_path: Path) -> Verifier:
    return verifier(tmp_path / "ours.pub")


def manifest(**times: float) -> ModelManifest:
    """Configs with the times of their promotions."""
    return ModelManifest(models={config: Current(sha256="a" * 64, promoted_at=at) for config, at in times.items()})


def signed(sign: Signer, **times: float) -> SignedManifest:
    content = manifest(**times).dump()
    return SignedManifest(content, sign(content))


def refused(root: Path, given: SignedManifest, verify: Verifier) -> str:
    with pytest.raises(PublishingRefused) as refusal:
        note_signed(root, given, verify)
    return refusal.value.reason


def test_what_is_published_is_what_a_tree_has(tmp_path: Path, sign: Signer, verify: Verifier) -> None:
    publish(tmp_path / "published", {"hex8_2p": model_file(tmp_path, "one", 1.0)})
    assert signed_manifest(tmp_path / "published") is None
    publish(tmp_path / "published", {}, sign=sign)
    published = signed_manifest(tmp_path / "published")
    assert published is not None
    assert note_signed(tmp_path / "tree", published, verify)
    assert not note_signed(tmp_path / "tree", published, verify)
    assert (tmp_path / "tree" / PATH).read_bytes() == published.content
    assert (tmp_path / "tree" / SIGNATURE_PATH).read_bytes() == published.signature
    assert read_signed(tmp_path / "tree", verify).models["hex8_2p"].promoted_at == 1.0


def test_the_latest_counts_in_whatever_order_they_come(tmp_path: Path, sign: Signer, verify: Verifier) -> None:
    given = [signed(sign, hex8_2p=1.0), signed(sign, hex8_2p=2.0), signed(sign, hex8_2p=2.0, hex8_3p=1.5)]
    for number, order in enumerate(itertools.permutations(given)):
        for entry in order:
            note_signed(tmp_path / str(number), entry, verify)
        assert (tmp_path / str(number) / PATH).read_bytes() == given[-1].content


def test_nothing_that_is_not_signed_takes_the_place_of_what_is(tmp_path: Path, sign: Signer, verify: Verifier) -> None:
    good = signed(sign, hex8_2p=1.0)
    note_signed(tmp_path, good, verify)
    other = Ed25519PrivateKey.generate().sign
    later = signed(sign, hex8_2p=2.0)
    for bad in (
        signed(other, hex8_2p=2.0),
        SignedManifest(later.content + b" ", later.signature),
        SignedManifest(later.content, b""),
        SignedManifest(b"no manifest", sign(b"no manifest")),
    ):
        assert refused(tmp_path, bad, verify) == "bad_signature"
    assert (tmp_path / PATH).read_bytes() == good.content
    assert read_signed(tmp_path, verify) == manifest(hex8_2p=1.0)


def test_what_contradicts_the_order_of_promotions_is_refused(tmp_path: Path, sign: Signer, verify: Verifier) -> None:
    note_signed(tmp_path, signed(sign, hex8_2p=1.0, hex8_3p=2.0), verify)
    assert refused(tmp_path, signed(sign, hex8_2p=2.0, hex8_3p=1.0), verify) == "contradicts"
    assert read_signed(tmp_path, verify) == manifest(hex8_2p=1.0, hex8_3p=2.0)


def test_what_is_there_without_a_signature_counts_for_nothing(tmp_path: Path, sign: Signer, verify: Verifier) -> None:
    note(tmp_path, "hex8_2p", Current(sha256="b" * 64, promoted_at=9.0))
    with pytest.raises(PublishingRefused, match="no_signature"):
        read_signed(tmp_path, verify)
    assert note_signed(tmp_path, signed(sign, hex8_2p=1.0), verify)
    note(tmp_path, "hex8_2p", Current(sha256="b" * 64, promoted_at=9.0))
    with pytest.raises(PublishingRefused, match="bad_signature"):
        read_signed(tmp_path, verify)
