"""What a model file says about its model: format, identity, config, architecture, encoder and provenance.

Numbers come from the shapes of the weights where these give them, and from the metadata elsewhere; where both give one they have to
agree. Nothing is taken from the file's name. Whether the file fits a config and a training set is decided elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from ringrift_dagster.datasets.encoders import BOARD_FACTS
from ringrift_dagster.games.config import BOARD_ALIASES, BOARDS, PLAYER_COUNTS, Config
from ringrift_dagster.models.checkpoints.content import Content, Tensor
from ringrift_dagster.models.checkpoints.metadata import parse_json, plain_metadata
from ringrift_dagster.models.checkpoints.refusals import CheckpointRefused
from ringrift_dagster.models.checkpoints.source import Source, hashed, open_source

METADATA_NAME: Final = "ringrift"
"""The entry of a safetensors or ONNX file's metadata that has, as JSON, what `_versioning_metadata` has in a torch file."""
ENCODERS: Final = {(False, 56): "square_v2", (True, 64): "hex_v3", (True, 40): "hex_v2"}
"""Encoder by whether the board is hexagonal and by the planes of the network's input."""
MAX_COUNT: Final = 1 << 53
"""Of elements: up to here JSON numbers are exact in every reader."""

_BUFFERS: Final = (".running_mean", ".running_var", ".num_batches_tracked")
_POLICY: Final = re.compile(r"policy_fc([0-9]{1,2})\.weight")
_VALUE: Final = re.compile(r"value_fc([0-9]{1,2})\.weight")
_BLOCK: Final = re.compile(r"res_blocks\.([0-9]{1,4})\.")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Checkpoint:
    """A model file. `sha256` is the model's identity. What is None is neither in the weights nor in the metadata.

    `parameters` counts the elements of all weights but the running statistics of normalisation. `config` is None unless board and
    number of players are known; RingRift's hexagonal networks with a spatial policy have another `policy_size` than training sets.
    Every value can be written as JSON, and every text but those in `metadata` can be printed to a terminal.
    """

    format: str
    sha256: str
    bytes: int
    tensors: int
    parameters: int
    other_tensors: int
    config: str | None
    board: str | None
    players: int | None
    architecture: str | None
    architecture_version: str | None
    in_channels: int | None
    policy_size: int | None
    filters: int | None
    blocks: int | None
    encoder: str | None
    feature_version: int | None
    training_data_sha256: str | None
    created_at: str | None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a model file of any known format. Raises CheckpointRefused, and nothing else whatever the file contains."""
    return read_with_tensors(path)[0]


def read_with_tensors(path: Path) -> tuple[Checkpoint, Mapping[str, Tensor]]:
    """The same with the model's tensors by name. Raises CheckpointRefused, and nothing else whatever the file contains."""
    with open_source(path) as source, hashed(source) as digest:
        content = _reader(source)(source)
    return describe(content, digest[0], source.size), content.tensors


def describe(content: Content, sha256: str, size: int) -> Checkpoint:
    """What a file's content says. Raises CheckpointRefused (`metadata_mismatch`, `corrupt_header`, `too_deep`, `too_large`)."""
    metadata = _metadata(content)
    claims = metadata.get("config")
    claims = {**metadata, **{name: value for name, value in claims.items() if value}} if isinstance(claims, dict) else metadata
    shapes = _Shapes(content.tensors)
    in_channels = _agreed("total_in_channels", _count(claims, "total_in_channels"), shapes.in_channels)
    in_channels = in_channels or _count(claims, "in_channels")  # some square networks call the planes of one frame so
    policy_size = _agreed("policy_size", _count(claims, "policy_size"), shapes.policy_size)
    players = _agreed("num_players", _count(claims, "num_players"), shapes.players)
    board = _board(_text(claims, "board_type"), policy_size)
    parameters = sum(tensor.elements for name, tensor in content.tensors.items() if not name.endswith(_BUFFERS))
    if parameters > MAX_COUNT:
        raise CheckpointRefused("too_large", f"{parameters} parameters")
    known = board is not None and players in PLAYER_COUNTS
    return Checkpoint(
        format=content.format,
        sha256=sha256,
        bytes=size,
        tensors=len(content.tensors),
        parameters=parameters,
        other_tensors=content.other_tensors,
        config=Config(board, players).key if known else None,  # type: ignore[arg-type]
        board=board,
        players=players,
        architecture=_text(metadata, "model_class"),
        architecture_version=_text(metadata, "architecture_version"),
        in_channels=in_channels,
        policy_size=policy_size,
        filters=_agreed("num_filters", _count(claims, "num_filters"), shapes.filters),
        blocks=_agreed("num_res_blocks", _count(claims, "num_res_blocks"), shapes.blocks),
        encoder=ENCODERS.get((BOARDS[board].hexagonal, in_channels)) if board and in_channels else None,
        feature_version=_count(claims, "feature_version"),
        training_data_sha256=_training_data(metadata),
        created_at=_text(metadata, "created_at"),
        metadata=metadata,
    )


def _reader(source: Source) -> Callable[[Source], Content]:
    """The reader of the file's format, which its first bytes tell."""
    from ringrift_dagster.models.checkpoints import onnx_file, safetensors_file, torch_file

    head = source.read(0, min(source.size, 512))
    if head[:4] in (b"PK\3\4", b"PK\5\6"):
        return torch_file.read_zip
    if head[:1] == b"\x80":
        return torch_file.read_legacy
    if head[257:262] == b"ustar" or head[:5] == b"sys_i":
        raise CheckpointRefused("legacy_tar", "a tar archive; load it with torch and save it again")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < source.size:
        return safetensors_file.read_safetensors
    if head[:1] == b"\x08":  # ONNX: the field ir_version
        return onnx_file.read_onnx
    raise CheckpointRefused("unknown_format", f"the file begins with {head[:8].hex() or 'nothing'}")


class _Shapes:
    """Numbers that the names and shapes of RingRift's convolutional networks give; None where they do not."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        convolution = next(
            (tensor.shape for name, tensor in tensors.items() if len(tensor.shape) == 4 and name.endswith(".weight")), None
        )
        self.in_channels = convolution[1] if convolution else None
        self.filters = convolution[0] if convolution else None
        blocks = {match[1] for name in tensors if (match := _BLOCK.match(name))}
        self.blocks = len(blocks) or None
        self.policy_size = _rows(tensors, _POLICY)
        self.players = _rows(tensors, _VALUE)


def _rows(tensors: Mapping[str, Tensor], pattern: re.Pattern[str]) -> int | None:
    """Outputs of the last layer of a head."""
    layers = {int(match[1]): tensor.shape for name, tensor in tensors.items() if (match := pattern.fullmatch(name))}
    shape = layers[max(layers)] if layers else ()
    return shape[0] if len(shape) == 2 else None


def _metadata(content: Content) -> dict[str, Any]:
    text = content.metadata.get(METADATA_NAME)
    if not isinstance(text, str):
        return plain_metadata(dict(content.metadata))
    return plain_metadata(parse_json(text, f"the metadata {METADATA_NAME!r}"))


def _agreed(name: str, claimed: int | None, actual: int | None) -> int | None:
    if claimed is not None and actual is not None and claimed != actual:
        raise CheckpointRefused("metadata_mismatch", f"{name} is {claimed} in the metadata, {actual} in the weights")
    return claimed if actual is None else actual


def _count(values: Mapping[str, Any], name: str) -> int | None:
    """A positive integer; RingRift writes 0 for what it does not know."""
    value = values.get(name)
    return value if type(value) is int and 0 < value < 1 << 40 else None


def _text(values: Mapping[str, Any], name: str) -> str | None:
    """The beginning of a text, with a replacement for every character that a terminal might obey."""
    value = values.get(name)
    if not isinstance(value, str) or not value:
        return None
    return "".join(character if character.isprintable() else "\ufffd" for character in value[:200])


def _board(name: str | None, policy_size: int | None) -> str | None:
    """The board that the metadata name, else the one whose policy has this size."""
    if name is not None:
        board = BOARD_ALIASES.get(name) or name
        return board if board in BOARDS else None
    return next((board for board, facts in BOARD_FACTS.items() if facts.policy_size == policy_size), None)


def _training_data(metadata: Mapping[str, Any]) -> str | None:
    info = metadata.get("training_info")
    for values in (metadata, info if isinstance(info, dict) else {}):
        value = values.get("training_data_sha256")
        if isinstance(value, str) and _SHA256.fullmatch(value):
            return value
    return None
