"""Policies that play with a model: checkpoints of the reference network, loaded and asked for moves. Loading needs torch.

A file is read by `models.checkpoints` first, so that torch sees only what that accepts. Who plays against whom is for
`models.evaluation`; policies without a model are in `ai.policies`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from ringrift_dagster.ai.policies.interface import Choice, HistoryPolicy, LegalMoves
from ringrift_dagster.ai.seeds import Generator, fraction
from ringrift_dagster.datasets.features import GLOBAL_FEATURES, HISTORY_LENGTH, PositionEncoder, encoding
from ringrift_dagster.datasets.labels import NO_POLICY, policy_indices
from ringrift_dagster.games.config import Config
from ringrift_dagster.games.moves import PackedMoves
from ringrift_dagster.games.position import Position
from ringrift_dagster.models.checkpoints.description import read_checkpoint
from ringrift_dagster.models.checkpoints.refusals import CheckpointRefused

if TYPE_CHECKING:
    from ringrift_dagster.models.training.network import ReferenceNetwork

TEMPERATURE: Final = 0.1
"""Of `policy_only`: a move's logit counts divided by this, so that nearly always the likeliest move is played."""


class UnplayableModel(ValueError):
    """A model file that nothing here plays with; the message is one line."""


def model_policy(name: str, config: Config, path: Path, sha256: str | None = None) -> HistoryPolicy:
    """The policy `name`, one of MODEL_POLICIES, with the model in a file, for games of `config`. Raises UnplayableModel.

    With `sha256`, the file has to be that model. Torch computes with one thread in this process from then on, so that the
    same file and seed give the same moves on the same kind of processor.
    """
    make = MODEL_POLICIES.get(name)
    if make is None:
        raise UnplayableModel(f"{name[:40]!r} does not play with a model: {', '.join(MODEL_POLICIES)} can")
    return make(config, load_network(config, path, sha256))


def load_network(config: Config, path: Path, sha256: str | None = None) -> ReferenceNetwork:
    """The network in a checkpoint of the reference trainer. Raises UnplayableModel."""
    try:
        checkpoint = read_checkpoint(path)
        content = path.read_bytes()
    except CheckpointRefused as refusal:
        raise UnplayableModel(f"{path} is refused: {refusal}") from refusal
    except OSError as error:
        raise UnplayableModel(f"{path}: {error.strerror or error}") from error
    if hashlib.sha256(content).hexdigest() != checkpoint.sha256:
        raise UnplayableModel(f"{path} was changed while it was read")
    if sha256 not in (None, checkpoint.sha256):
        raise UnplayableModel(f"{path} is model {checkpoint.sha256[:12]}, not {str(sha256)[:12]}")
    if checkpoint.config != config.key:
        raise UnplayableModel(f"{path} is a model of {checkpoint.config or 'no known config'}, not of {config.key}")
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UnplayableModel("torch is not installed, and models play with it: pip install 'ringrift-dagster[train]'") from error
    from ringrift_dagster.models.training.network import ARCHITECTURE_VERSION, MODEL_CLASS, ReferenceNetwork, Sizes

    made_by = (checkpoint.architecture, checkpoint.architecture_version)
    if made_by != (MODEL_CLASS, ARCHITECTURE_VERSION) or checkpoint.format != "torch-zip":
        raise UnplayableModel(
            f"{path} is a {' '.join(filter(None, made_by)) or 'model of unknown architecture'}; "
            f"only {MODEL_CLASS} {ARCHITECTURE_VERSION} plays here"
        )
    torch.set_num_threads(1)
    try:
        network = ReferenceNetwork(config, Sizes(checkpoint.filters or 0, checkpoint.blocks or 0))
        weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)["model_state_dict"]
        network.load_state_dict(weights)
    except Exception as error:  # torch documents none of what it raises
        reason = " ".join(str(error).split())[:200]
        raise UnplayableModel(f"{path} cannot be loaded: {type(error).__name__}: {reason}") from error
    return network.eval()


@dataclass(frozen=True)
class Judgement:
    """What a network says of a position: logits of the moves of the policy layout, and values for the mover and who follow."""

    logits: NDArray[np.float32]
    values: NDArray[np.float32]


class Judge:
    """Asks a network about positions of its config; buffers are made once, so it is used by one thread at a time."""

    def __init__(self, config: Config, network: ReferenceNetwork) -> None:
        import torch  # pyright: ignore[reportMissingImports]

        spec = encoding(config)
        self._torch = torch
        self._network = network
        self._encoder = PositionEncoder(config)
        self._features = np.zeros((1, spec.in_channels, spec.spatial, spec.spatial), np.float32)
        self._globals = np.zeros((1, GLOBAL_FEATURES), np.float32)
        self._inputs = torch.from_numpy(self._features), torch.from_numpy(self._globals)

    def __call__(self, position: Position, earlier: Sequence[Position]) -> Judgement:
        self._encoder.encode_into(position, earlier, self._features.reshape(-1), self._globals[0])
        with self._torch.inference_mode():
            logits, values = self._network(*self._inputs)
        return Judgement(logits[0].numpy(), values[0].numpy())


class PolicyOnly:
    """The policy `policy_only`: a draw among the legal moves by the network's policy, nearly always the likeliest."""

    history = HISTORY_LENGTH

    def __init__(self, config: Config, network: ReferenceNetwork) -> None:
        self._config = config
        self._judge = Judge(config, network)

    def __call__(self, position: Position, moves: LegalMoves, generator: Generator, earlier: Sequence[Position] = ()) -> Choice:
        if len(moves.rows) == 1:
            return Choice(0)
        judgement = self._judge(position, earlier)
        bounds = np.cumsum(shares(self._config, moves, judgement.logits, TEMPERATURE))
        drawn = fraction(generator) * bounds[-1]
        return Choice(min(int(np.searchsorted(bounds, drawn, side="right")), len(moves.rows) - 1))


def shares(config: Config, moves: LegalMoves, logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
    """How much each legal move is worth to the policy, relative to the likeliest entry of the layout.

    Moves that share an entry share what it is worth. A move without an entry is worth nothing, unless none has one.
    """
    indices = policy_indices(config, PackedMoves(moves.rows, moves.cells))
    placed = indices != NO_POLICY
    if not placed.any():
        return np.ones(len(indices))
    scaled = logits[indices].astype(np.float64) / temperature
    _, entry, sharing = np.unique(indices, return_inverse=True, return_counts=True)
    return np.where(placed, np.exp(scaled - scaled[placed].max()), 0.0) / sharing[entry]


MODEL_POLICIES: Mapping[str, Callable[[Config, ReferenceNetwork], HistoryPolicy]] = MappingProxyType({"policy_only": PolicyOnly})
"""Policies that play with a model, by the name of the AI."""
