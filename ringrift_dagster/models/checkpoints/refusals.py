"""Reason codes for model files that are refused, and the exception that carries one."""

from __future__ import annotations

from typing import Final

REASONS: Final = {
    "unreadable": "There is no such regular file, or it may not be read.",
    "changed": "The file changed while it was read.",
    "too_large": "The file, an entry, a header or a count exceeds the limits of this reader.",
    "unknown_format": "The content is none of: torch zip, torch legacy, safetensors, ONNX.",
    "legacy_tar": "A tar archive, as torch wrote before version 0.1.10; save it again with a current torch.",
    "torchscript": "A TorchScript archive, which contains a program; save a state dict instead.",
    "truncated": "The file ends before its own structure does.",
    "hostile_archive": "The zip archive has a structure that torch never writes.",
    "crc_mismatch": "The bytes of an archive entry are not those that its CRC was made of.",
    "forbidden_opcode": "The pickle uses an opcode that plain data never needs.",
    "forbidden_global": "The pickle names something other than the constructors of tensors.",
    "forbidden_call": "The pickle calls a permitted constructor with arguments of another kind.",
    "corrupt_pickle": "The pickle is not well formed.",
    "too_deep": "Values are nested deeper than any model's, or contain themselves.",
    "corrupt_tensor": "A tensor does not fit the storage that it names, or overlaps itself.",
    "corrupt_header": "The header of a safetensors or ONNX file is not well formed, or contradicts the data.",
    "external_data": "An ONNX file refers to tensors in other files.",
    "no_weights": "The file has no tensors under any of the known names.",
    "metadata_mismatch": "The metadata contradict the weights.",
}
"""What each reason code means, in one line."""


class CheckpointRefused(Exception):
    """A model file that is refused. `reason` is a key of REASONS, `detail` one line."""

    def __init__(self, reason: str, detail: str) -> None:
        assert reason in REASONS
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
