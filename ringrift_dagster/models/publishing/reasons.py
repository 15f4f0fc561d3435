"""Reason codes of refusals and findings about published files, and the types that carry one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

REASONS: Final = {
    "busy": "Another process is publishing there.",
    "no_exchange": "The file system cannot exchange two directories in one step.",
    "not_a_set": "The directory is no published set, or its manifest cannot be read.",
    "unexpected_file": "A name is there that the manifest does not account for.",
    "unreadable": "The file system refuses to read or write.",
    "missing_file": "A file that the manifest names is not there.",
    "symbolic_link": "The name is a symbolic link; stores and inventories skip these.",
    "not_a_file": "The name is neither a regular file nor missing.",
    "hash_mismatch": "The bytes of the model are not those of the manifest's hash.",
    "no_sidecar": "There is no .sha256 file beside the model.",
    "wrong_sidecar": "The .sha256 file does not say what the manifest says.",
    "no_meta": "There is no .meta.json file beside the model.",
    "wrong_meta": "The .meta.json file does not say what the manifest says.",
    "wrong_names": "The manifest's names of a model are not those that RingRift's readers look for.",
    "not_torch": "The file is no torch checkpoint, which is all that RingRift's readers load under these names.",
    "no_content": "No file with the model's bytes was given, or it has not arrived yet.",
    "shadowed": "RingRift on Apple's GPUs loads another file of this name with _mps instead.",
    "no_signature": "There is no signature.",
    "bad_signature": "The signature is not one of the manifest by the expected key.",
    "contradicts": "The manifest is later than the one that is there for one config, and earlier for another.",
    "no_key": "The key file cannot be read, or is no Ed25519 key.",
}
"""What each reason code means, in one line."""


@dataclass(frozen=True)
class Finding:
    """What is wrong with one name: a key of REASONS, the name, and one line."""

    code: str
    name: str
    text: str

    def __post_init__(self) -> None:
        assert self.code in REASONS

    def __str__(self) -> str:
        return f"{self.code}: {self.text}"


class PublishingRefused(Exception):
    """Nothing was published, or nothing is to be believed. `reason` is a key of REASONS, the message one line."""

    def __init__(self, reason: str, detail: str) -> None:
        assert reason in REASONS
        super().__init__(f"{reason}: {' '.join(detail.split())[:500]}")
        self.reason = reason
