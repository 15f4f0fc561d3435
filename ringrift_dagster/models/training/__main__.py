"""`python -m ringrift_dagster.models.training`: the reference trainer's options, with RingRift's names, and what it prints.

One JSON object a line on stdout: one after every epoch and one for the checkpoint. Everything else is one line on stderr. Exit
status: 0 trained, 1 the training failed, 2 options or data that cannot be used, or no torch.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from ringrift_dagster.datasets.encoders import BOARD_FACTS
from ringrift_dagster.games.config import BOARD_ALIASES, PLAYER_COUNTS, Config
from ringrift_dagster.models.playing import stored_network
from ringrift_dagster.models.training.loader import TrainingDataRefused, TrainingSet

PROGRAM: Final = "ringrift-train"
FAILED: Final = 1
UNUSABLE: Final = 2
INTERRUPTED: Final = 130
CPU_INDEX: Final = "https://download.pytorch.org/whl/cpu"
"""PyTorch's index of builds without CUDA, which are gigabytes smaller."""


@click.command(name=PROGRAM, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--data-path", required=True, type=click.Path(path_type=Path), help="The training set, an NPZ file.")
@click.option("--save-path", required=True, type=click.Path(path_type=Path), help="The checkpoint; must not exist.")
@click.option("--board-type", required=True, help=f"One of {', '.join(BOARD_FACTS)}.")
@click.option("--num-players", required=True, type=int, help="2, 3 or 4.")
@click.option("--epochs", default=4, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--batch-size", default=256, show_default=True, type=click.IntRange(2, 65_536))
@click.option("--learning-rate", default=3e-3, show_default=True, type=click.FloatRange(0, 10, min_open=True), help="The highest.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**63 - 1))
@click.option("--num-filters", default=32, show_default=True, type=int, help="Filters of every convolution.")
@click.option("--num-res-blocks", default=3, show_default=True, type=int)
@click.option(
    "--initial-checkpoint",
    default=None,
    type=click.Path(path_type=Path),
    help="Begin with the weights of this checkpoint, and its network's size.",
)
@click.option("--validation-split", default=0.05, show_default=True, type=click.FloatRange(0, 0.9), help="Share held out, by game.")
@click.option(
    "--threads", default=1, show_default=True, type=click.IntRange(1, 1024), help="More pay on idle cores; weights depend on it."
)
@click.option("--keep-forced-moves", is_flag=True, help="Train on moves without an alternative too; they are left out by default.")
@click.option("--work-dir", default=None, type=click.Path(path_type=Path), help="Where the uncompressed set lies meanwhile.")
def command(**options: Any) -> None:
    """Train a small policy and value network on a training set and write its checkpoint."""
    try:
        _train(**options)
    except KeyboardInterrupt:
        _end("interrupted: nothing was written", INTERRUPTED)


def _train(
    data_path: Path,
    save_path: Path,
    board_type: str,
    num_players: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    num_filters: int,
    num_res_blocks: int,
    initial_checkpoint: Path | None,
    validation_split: float,
    threads: int,
    keep_forced_moves: bool,
    work_dir: Path | None,
) -> None:
    config = _config(board_type, num_players)
    save_path = save_path.absolute()
    if os.path.lexists(save_path):
        raise click.UsageError(f"{save_path} exists: checkpoints are not replaced, name another file with --save-path")
    if save_path.suffix != ".pth":
        raise click.UsageError(f"{save_path.name} is no name of a checkpoint: it ends in .pth")
    network, trainer = _import_torch()
    try:
        sizes = network.Sizes(num_filters, num_res_blocks)
        if initial_checkpoint is not None:
            stored_network(config, initial_checkpoint)  # a set takes minutes to be read, which would be in vain
        save_path.parent.mkdir(parents=True, exist_ok=True)
        with TrainingSet(data_path, work_dir or save_path.parent, decisions_only=not keep_forced_moves) as data:
            if data.config != config:
                raise TrainingDataRefused(f"{data_path} is of {data.config.key}, not of {config.key}")
            chosen = trainer.Options(epochs, batch_size, learning_rate, seed, sizes, validation_split, threads, initial_checkpoint)
            checkpoint = trainer.train(data, chosen, save_path, lambda figures: _report("epoch", figures))
    except trainer.TrainingFailed as error:
        _end(str(error), FAILED)
    except ValueError as error:
        _end(str(error), UNUSABLE)
    except OSError as error:
        _end(f"cannot write {save_path}: {error.strerror or error}", UNUSABLE)
    facts = checkpoint.to_dict()
    named = ("sha256", "bytes", "config", "architecture_version", "encoder", "parameters", "training_data_sha256")
    _report("checkpoint", {"path": str(save_path), **{name: facts[name] for name in named}})


def _config(board: str, players: int) -> Config:
    board = BOARD_ALIASES.get(board, board)
    if board not in BOARD_FACTS:
        raise click.UsageError(f"{board[:40]!r} is no board: --board-type is one of {', '.join(BOARD_FACTS)}")
    if players not in PLAYER_COUNTS:
        raise click.UsageError(f"{players} players: --num-players is one of {', '.join(map(str, PLAYER_COUNTS))}")
    return Config(board, players)


def _import_torch() -> tuple[Any, Any]:
    try:
        import torch  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        _end(
            f"torch is not installed: pip install 'ringrift-dagster[train]' --extra-index-url {CPU_INDEX} (a build without CUDA)",
            UNUSABLE,
        )
    from ringrift_dagster.models.training import network, trainer

    return network, trainer


def _report(event: str, figures: Mapping[str, Any]) -> None:
    print(json.dumps({"event": event, **figures}), flush=True)


def _end(message: str, status: int) -> NoReturn:
    click.echo(f"{PROGRAM}: {' '.join(message.split())}", err=True)
    sys.exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return 0; raises SystemExit with another status where it fails."""
    try:
        command.main(arguments, prog_name="python -m ringrift_dagster.models.training", standalone_mode=False)
    except click.ClickException as error:
        _end(error.format_message(), UNUSABLE)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
