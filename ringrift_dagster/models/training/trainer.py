"""Training the reference network on a training set, and writing its checkpoint. Needs torch.

Deterministic: the same set, options, number of threads and build of torch give the same weights on the same kind of processor.
Command-line options are read in `__main__`.
"""

from __future__ import annotations

import hashlib
import math
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from numpy.typing import NDArray
from torch import Tensor  # pyright: ignore[reportMissingImports]

from ringrift_dagster.ai.seeds import generator
from ringrift_dagster.datasets.features import HISTORY_LENGTH
from ringrift_dagster.datasets.npz_export import FEATURE_VERSION
from ringrift_dagster.datasets.npz_writer import publish
from ringrift_dagster.models.checkpoints.description import Checkpoint, read_checkpoint
from ringrift_dagster.models.playing import stored_network
from ringrift_dagster.models.training.loader import Batch, TrainingDataRefused, TrainingSet
from ringrift_dagster.models.training.network import ARCHITECTURE_VERSION, MODEL_CLASS, ReferenceNetwork, Sizes, description

VALUE_WEIGHT: Final = 0.5
"""How much the value's loss counts beside the policy's."""
WEIGHT_DECAY: Final = 1e-4
WARM_UP: Final = 0.1
"""The share of all steps in which the learning rate rises."""

Progress = Callable[[Mapping[str, Any]], None]
"""Called after every epoch with its figures."""


class TrainingFailed(Exception):
    """Training made no usable network, or its checkpoint could not be written; the message is one line."""


@dataclass(frozen=True)
class Options:
    """How to train. `validation` is the share of samples (of whole games where these are known) that is held out.

    With `initial`, training begins with the weights of that checkpoint, and the network has its sizes instead of `sizes`.
    """

    epochs: int = 4
    batch_size: int = 256
    learning_rate: float = 3e-3
    seed: int = 0
    sizes: Sizes = field(default_factory=Sizes)
    validation: float = 0.05
    threads: int = 1
    initial: Path | None = None


@dataclass(frozen=True)
class _Losses:
    """Means: cross entropy of the policy in nats, squared error of the values, how often the likeliest move is right."""

    policy: float
    value: float
    accuracy: float

    @property
    def total(self) -> float:
        return self.policy + VALUE_WEIGHT * self.value


def train(data: TrainingSet, options: Options, save_path: Path, progress: Progress) -> Checkpoint:
    """Train on `data` and write the checkpoint; returns what was written.

    Raises TrainingFailed, TrainingDataRefused, and UnplayableModel for an initial checkpoint that cannot be used.
    """
    started = datetime.now(tz=UTC)
    _make_deterministic(options)
    seed = ("training", options.seed, data.config.key)
    if options.initial is None:
        network, parent = ReferenceNetwork(data.config, options.sizes), None
    else:
        network, parent = stored_network(data.config, options.initial)
    training, held_out = data.split(options.validation, generator(*seed, "validation"))
    if not len(training):
        raise TrainingDataRefused(f"{data.path} has too few games for a share of {options.validation:g} to be held out")
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=WEIGHT_DECAY)
    steps = options.epochs * math.ceil(len(training) / options.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / steps))
    figures: dict[str, Any] = {}
    for epoch in range(1, options.epochs + 1):
        began = time.perf_counter()
        network.train()
        sums = np.zeros(3)
        for batch in data.batches(training, options.batch_size, generator(*seed, "epoch", epoch)):
            policy, value, accuracy = _losses(network, batch)
            optimizer.zero_grad()
            (policy + VALUE_WEIGHT * value).backward()
            optimizer.step()
            schedule.step()
            sums += np.array([policy.item(), value.item(), accuracy.item()]) * len(batch)
        seconds = time.perf_counter() - began
        losses = _Losses(*(sums / len(training)).tolist())
        validation = _validate(network, data, held_out, options.batch_size)
        figures = {
            "epoch": epoch,
            "epochs": options.epochs,
            "train_loss": losses.total,
            "policy_loss": losses.policy,
            "value_loss": losses.value,
            "policy_accuracy": losses.accuracy,
            "val_loss": validation and validation.total,
            "val_policy_loss": validation and validation.policy,
            "val_value_loss": validation and validation.value,
            "val_policy_accuracy": validation and validation.accuracy,
            "samples_per_second": round(len(training) / seconds, 1),
            "seconds": round(seconds, 3),
        }
        progress({name: round(figure, 6) if isinstance(figure, float) else figure for name, figure in figures.items()})
        if not math.isfinite(losses.total) or not math.isfinite(validation.total if validation else 0.0):
            raise TrainingFailed(
                f"the loss is no number any more in epoch {epoch}: lower --learning-rate ({options.learning_rate:g})"
            )
    info = {"started_at": started.isoformat(), **_training_info(data, options, figures, len(training), len(held_out))}
    return save(network, save_path, data.sha256, info, parent)


def save(
    network: ReferenceNetwork,
    path: Path,
    training_data_sha256: str,
    training_info: Mapping[str, Any],
    parent: str | None = None,
) -> Checkpoint:
    """Write a checkpoint, whole or not at all, and read it back. Raises TrainingFailed; one that exists is not replaced.

    `parent` is the SHA-256 of the checkpoint with whose weights training began.
    """
    described = description(network)
    weights = network.state_dict()
    content = {
        "model_state_dict": weights,
        "_versioning_metadata": {
            "architecture_version": ARCHITECTURE_VERSION,
            "model_class": MODEL_CLASS,
            "config": {**described, "history_length": HISTORY_LENGTH, "feature_version": FEATURE_VERSION},
            "board_type": described["board_type"],
            "board_size": described["board_size"],
            "num_players": described["num_players"],
            "policy_size": described["policy_size"],
            "training_info": dict(training_info),
            "training_data_sha256": training_data_sha256,
            "created_at": datetime.now(tz=UTC).isoformat(timespec="seconds"),
            "checksum": weights_digest(weights),
            "parent_checkpoint": parent,
        },
    }
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as directory:
            staged = Path(directory) / path.name
            torch.save(content, staged)
            checkpoint = read_checkpoint(staged)
            if path.exists():
                raise TrainingFailed(f"{path} exists meanwhile: the new checkpoint was not written")
            publish(staged, path)
    except OSError as error:
        raise TrainingFailed(f"cannot write {path}: {error.strerror or error}") from error
    return checkpoint


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names and contents of weights, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _make_deterministic(options: Options) -> None:
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(options.seed)


def _rate(done: float) -> float:
    """The learning rate after a share of all steps: it rises linearly and falls along a cosine."""
    if done < WARM_UP:
        return 0.05 + 0.95 * done / WARM_UP
    return 0.5 + 0.5 * math.cos(math.pi * (done - WARM_UP) / (1.0 - WARM_UP))


def _losses(network: ReferenceNetwork, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Policy loss, value loss and accuracy of the policy, each the mean over the batch.

    The policy's mean is weighted by `Batch.policy_weights`.
    """
    logits, values = network(torch.from_numpy(batch.features), torch.from_numpy(batch.global_vectors))
    owners, moves = torch.from_numpy(batch.owners), torch.from_numpy(batch.moves)
    probabilities = torch.from_numpy(batch.probabilities)
    weights = torch.from_numpy(batch.policy_weights())[owners] * probabilities
    shares = weights.sum().clamp(min=1e-6)
    policy = -(torch.log_softmax(logits, dim=1)[owners, moves] * weights).sum() / shares
    targets, known = (torch.from_numpy(array) for array in batch.value_targets(values.shape[1]))
    value = ((values - targets).square() * known).sum() / known.sum()
    accuracy = ((logits.detach().argmax(dim=1)[owners] == moves) * weights).sum() / shares
    return policy, value, accuracy


def _validate(network: ReferenceNetwork, data: TrainingSet, samples: NDArray[np.int64], size: int) -> _Losses | None:
    """Losses on held-out samples, None if there are none."""
    if not len(samples):
        return None
    network.eval()
    sums = np.zeros(3)
    with torch.inference_mode():
        for batch in data.batches(samples, size):
            sums += np.array([loss.item() for loss in _losses(network, batch)]) * len(batch)
    return _Losses(*(sums / len(samples)).tolist())


def _training_info(
    data: TrainingSet, options: Options, figures: Mapping[str, Any], trained: int, held_out: int
) -> dict[str, str | int | float | None]:
    return {
        "epoch": options.epochs,
        "samples_seen": options.epochs * trained,
        "train_loss": figures["train_loss"],
        "val_loss": figures["val_loss"],
        "training_data": data.path.name,
        "training_data_sha256": data.sha256,
        "samples": trained,
        "held_out": held_out,
        "held_out_by": "game" if data.games is not None else "sample",
        "left_out": data.left_out,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "seed": options.seed,
        "threads": options.threads,
        "torch_version": str(torch.__version__),
        "machine": platform.machine(),
    }
