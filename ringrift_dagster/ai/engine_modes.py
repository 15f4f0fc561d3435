"""The vocabulary of the column `games.engine_mode`: which AI types each self-play mode of RingRift plays.

Two programs write it with different vocabularies: the soak (`scripts/run_self_play_soak.py`) and the enum EngineMode with its
aliases (`app/training/selfplay_config.py`). Other producers write free text; that is not an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

_SOAK = "scripts/run_self_play_soak.py"
_CONFIG = "app/training/selfplay_config.py"
_BOTH = f"{_SOAK}, {_CONFIG}"


@dataclass(frozen=True)
class EngineMode:
    """One value of `games.engine_mode`; `types` are the AI types it plays, empty where it draws from several that vary."""

    name: str
    types: tuple[str, ...]
    source: str
    meaning: str = ""


ENGINE_MODES: Mapping[str, EngineMode] = MappingProxyType(
    {
        mode.name: mode
        for mode in (
            EngineMode("descent-only", ("descent",), _BOTH, "without a network"),
            EngineMode(
                "mixed",
                ("random", "heuristic", "minimax", "descent", "mcts", "gumbel_mcts"),
                _BOTH,
                "soak: each seat at a difficulty drawn from ladder main; EngineMode: a pool of opponents",
            ),
            EngineMode("random-only", ("random",), _SOAK),
            EngineMode("heuristic-only", ("heuristic",), _BOTH),
            EngineMode("minimax-only", ("minimax",), _SOAK, "without a network"),
            EngineMode("mcts-only", ("mcts",), _BOTH, "soak: without a network; EngineMode: alias of mcts, with one"),
            EngineMode("nn-only", ("descent",), _SOAK, "with a network; recorded as descent_nn"),
            EngineMode("best-vs-pool", ("descent",), _SOAK, "recorded as descent_best_vs_pool"),
            EngineMode("nn-vs-mcts", ("descent", "mcts"), _SOAK),
            EngineMode("nn-vs-minimax", ("descent", "minimax"), _SOAK),
            EngineMode("nn-vs-descent", ("descent",), _SOAK, "with a network against without"),
            EngineMode("tournament-varied", ("descent", "mcts", "minimax"), _SOAK),
            EngineMode("diverse", (), _BOTH, "weights of app/training/diverse_ai_config.py"),
            EngineMode("diverse-cpu", (), _SOAK, "weights of app/training/diverse_ai_config.py, without a GPU"),
            EngineMode("gpu-minimax-only", ("gpu_minimax",), _SOAK),
            EngineMode("maxn-only", ("maxn",), _SOAK),
            EngineMode("brs-only", ("brs",), _SOAK),
            EngineMode("policy-only", ("policy_only",), _BOTH),
            EngineMode("gumbel-mcts-only", ("gumbel_mcts",), _SOAK),
            EngineMode("neural-demo-only", ("neural_demo",), _SOAK, "plays heuristic unless AI_ENGINE_NEURAL_DEMO_ENABLED is set"),
            EngineMode("nnue-guided", (), _CONFIG, "a search guided by an NNUE"),
            EngineMode("nn-minimax", ("minimax",), _CONFIG, "with a network"),
            EngineMode("nn-descent", ("descent",), _CONFIG, "with a network"),
            EngineMode("gumbel-mcts", ("gumbel_mcts",), _CONFIG),
            EngineMode("mcts", ("mcts",), _CONFIG, "with a network"),
            EngineMode("random", ("random",), _CONFIG),
            EngineMode("maxn", ("maxn",), _CONFIG),
            EngineMode("brs", ("brs",), _CONFIG),
            EngineMode("gmo", ("gmo",), _CONFIG, "deprecated"),
            EngineMode("ebmo", ("ebmo",), _CONFIG, "deprecated"),
            EngineMode("ig-gmo", ("ig_gmo",), _CONFIG, "deprecated"),
            EngineMode("cage", ("cage",), _CONFIG, "deprecated"),
            EngineMode("gnn", ("gnn",), _CONFIG),
            EngineMode("hybrid", ("hybrid",), _CONFIG),
        )
    }
)

ENGINE_MODE_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "gumbel": "gumbel-mcts",
        "gumbel-mcts": "gumbel-mcts",
        "descent": "descent-only",
        "heuristic": "heuristic-only",
        "gnn-policy": "gnn",
        "hybrid-gnn": "hybrid",
        "cnn-gnn": "hybrid",
    }
)
"""The aliases of selfplay_config.py, with hyphens; `mcts-only` and `random-only` are modes of the soak as well and stand above."""


def engine_mode(text: str | None) -> EngineMode | None:
    """The mode that a recorded value names, through aliases and with underscores for hyphens; None when it is none of them."""
    name = (text or "").strip().lower().replace("_", "-")
    return ENGINE_MODES.get(ENGINE_MODE_ALIASES.get(name, name))
