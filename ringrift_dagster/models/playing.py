"""Policies that play with a model: checkpoints of the reference network, loaded and asked for moves. Loading needs torch.

A file is read by `models.checkpoints` first, so that torch sees only what that accepts. What a network says
of a position is in `judge`, its search in `search`; who plays against whom is for `models.evaluation`.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from ringrift_dagster.ai.policies.interface import Choice, HistoryPolicy, LegalMoves
from ringrift_dagster.ai.seeds import Generator, fraction
from ringrift_dagster.datasets.features import HISTORY_LENGTH
from ringrift_dagster.games.config import Config
from ringrift_dagster.games.position import Position
from ringrift_dagster.models.checkpoints.description import read_checkpoint
from ringrift_dagster.models.checkpoints.refusals import CheckpointRefused
from ringrift_dagster.models.judge import Judge, shares
from ringrift_dagster.models.search import NetworkSearch

if TYPE_CHECKING:
    from ringrift_dagster.models.training.network import ReferenceNetwork

POLICY_ONLY: Final = "policy_only"
SEARCH: Final = "mcts"
TEMPERATURE: Final = 0.1
"""Of `policy_only`: a move's logit counts divided by this, so that nearly always the likeliest move is played."""


class UnplayableModel(ValueError):
    """A model file that nothing here plays with; the message is one line."""


def model_policy(name: str, config: Config, path: Path, sha256: str | None = None) -> HistoryPolicy:
    """The policy `name` with the model in a file, for games of `config`: `policy_only`, or `mcts:N` with N simulations a decision.

    With `sha256`, the file has to be that model. Torch computes with one thread in this process from then on, so that the
    same file and seed give the same moves on the same kind of processor. Raises UnplayableModel.
    """
    ai, _, number = name.partition(":")
    if ai == SEARCH and re.fullmatch("[1-9][0-9]{0,3}", number):
        return NetworkSearch(config, Judge(config, load_network(config, path, sha256)), int(number))
    if name == POLICY_ONLY:
        return PolicyOnly(config, Judge(config, load_network(config, path, sha256)))
    raise UnplayableModel(f"{name[:40]!r} does not play with a model: {POLICY_ONLY} and {SEARCH}:N with 1 to 9999 simulations do")


def load_network(config: Config, path: Path, sha256: str | None = None) -> ReferenceNetwork:
    """The network in a checkpoint of the reference trainer, ready to play. Raises UnplayableModel."""
    network, _ = stored_network(config, path, sha256)
    import torch  # pyright: ignore[reportMissingImports]

    from ringrift_dagster.models.training.network import fused

    torch.set_num_threads(1)
    return fused(network)


def stored_network(config: Config, path: Path, sha256: str | None = None) -> tuple[ReferenceNetwork, str]:
    """The network in a checkpoint of the reference trainer, as it was trained, and the file's SHA-256. Raises UnplayableModel."""
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
    try:
        network = ReferenceNetwork(config, Sizes(checkpoint.filters or 0, checkpoint.blocks or 0))
        weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)["model_state_dict"]
        network.load_state_dict(weights)
    except Exception as error:  # torch documents none of what it raises
        reason = " ".join(str(error).split())[:200]
        raise UnplayableModel(f"{path} cannot be loaded: {type(error).__name__}: {reason}") from error
    return network, checkpoint.sha256


class PolicyOnly:
    """The policy `policy_only`: a draw among the legal moves by the network's policy, nearly always the likeliest."""

    history = HISTORY_LENGTH

    def __init__(self, config: Config, judge: Judge) -> None:
        self._config, self._judge = config, judge

    def __call__(self, position: Position, moves: LegalMoves, generator: Generator, earlier: Sequence[Position] = ()) -> Choice:
        if len(moves.rows) == 1:
            return Choice(0)
        judgement = self._judge(position, earlier)
        bounds = np.cumsum(shares(self._config, moves, judgement.logits, TEMPERATURE))
        drawn = fraction(generator) * bounds[-1]
        return Choice(min(int(np.searchsorted(bounds, drawn, side="right")), len(moves.rows) - 1))
