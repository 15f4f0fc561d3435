"""The AI registry: every AI type that RingRift has, what it can do, and the names that stand for it.

One frozen table for self-play, AI replay and findings on games. Difficulty ladders are in `ladders`, the vocabulary of
`games.engine_mode` in `engine_modes`. Sources, all below RingRift's `ai-service/`: the names are the enum AIType
(`app/models/core.py`); version, status and flags are those of `app/ai/registry.py` for the 13 types it has, and read from the
implementation (`app/ai/`) for the others and where that registry contradicts it (`ladders.contradictions` names where).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from ringrift_dagster.games.config import BOARDS, PLAYER_COUNTS, Config

ALL_BOARDS = tuple(BOARDS)
SQUARES = tuple(name for name, board in BOARDS.items() if not board.hexagonal)


class Status(StrEnum):
    """How far an AI type may be relied on."""

    PRODUCTION = "production"
    EXPERIMENTAL = "experimental"
    DEPRECATED = "deprecated"
    ARCHIVED = "archived"


@dataclass(frozen=True, kw_only=True)
class AIType:
    """One AI type of RingRift.

    `deterministic`: the same seed, and the same weights, give the same moves, so it neither stops by the clock nor draws from
    global random state; false where that is not established. `boards` and `multi_player` (3 or 4 players) say what it can play.
    `self_play` and `evaluation`: a self-play mode, or a gauntlet or harness of RingRift uses it. `obstacle` says why this project
    cannot replay the moves of RingRift's implementation. `own_policy` describes this project's own policy of that name, if it has
    one.
    """

    name: str
    title: str
    version: str | None
    status: Status
    description: str
    obstacle: str
    deterministic: bool = False
    neural: bool = False
    tree_search: bool = False
    gradient_based: bool = False
    multi_player: bool = True
    boards: tuple[str, ...] = ALL_BOARDS
    gpu: bool = False
    self_play: bool = False
    evaluation: bool = False
    own_policy: str | None = None
    deprecation: str | None = None

    @property
    def playable(self) -> bool:
        """Whether this project's own engine has a policy of this name."""
        return self.own_policy is not None

    @property
    def players(self) -> tuple[int, ...]:
        """Numbers of players it can play with."""
        return PLAYER_COUNTS if self.multi_player else PLAYER_COUNTS[:1]

    def can_play(self, config: Config) -> bool:
        """Whether it can play this board with this number of players."""
        return config.board in self.boards and config.players in self.players

    @property
    def domain(self) -> str:
        """What it can play, in words."""
        boards = "every board" if self.boards == ALL_BOARDS else ", ".join(self.boards)
        return f"{boards} with {'2 to 4' if self.multi_player else '2'} players"


FLAGS = ("deterministic", "neural", "tree_search", "gradient_based", "multi_player", "gpu", "self_play", "evaluation")
"""The capability flags of AIType, in the order in which tables show them."""

_CLOCK = "its search stops by the wall clock, so the recorded seed does not give the recorded moves"
_NETWORK = "it plays by the weights of a neural network that the game does not identify by content"
_GLOBAL = "it draws from global random state that the recorded seed does not set"
_PYTHON = "it draws from Python's random stream over RingRift's own order of legal moves"
_REMOVAL = "archived in December 2025, removal announced for Q2 2026; use gnn or hybrid"
_SUCCESSOR = "deprecated in December 2025, removal announced for Q2 2026; use gumbel_mcts"

_TYPES = (
    AIType(
        name="random",
        title="Random AI",
        version="1.0.0",
        status=Status.PRODUCTION,
        description="Uniform random move selection for baseline comparisons",
        obstacle=_PYTHON,
        deterministic=True,
        self_play=True,
        evaluation=True,
        own_policy="a legal move at random, from the seed",
    ),
    AIType(
        name="heuristic",
        title="Heuristic AI",
        version="2.1.0",
        status=Status.PRODUCTION,
        description="Hand-crafted heuristic evaluation without search",
        obstacle=f"{_PYTHON}, and perturbs its weights",
        deterministic=True,
        self_play=True,
        evaluation=True,
        own_policy="the best move by features of the position after it",
    ),
    AIType(
        name="minimax",
        title="Minimax AI",
        version="3.0.0",
        status=Status.PRODUCTION,
        description="Alpha-beta pruned minimax with neural or heuristic evaluation",
        obstacle=_CLOCK,
        neural=True,
        tree_search=True,
        multi_player=False,
        boards=SQUARES,
        self_play=True,
        evaluation=True,
    ),
    AIType(
        name="gpu_minimax",
        title="GPU Minimax AI",
        version="1.0.0",
        status=Status.EXPERIMENTAL,
        description="Minimax with evaluation in batches on a GPU",
        obstacle=_CLOCK,
        neural=True,
        tree_search=True,
        multi_player=False,
        boards=SQUARES,
        gpu=True,
        self_play=True,
    ),
    AIType(
        name="maxn",
        title="MaxN AI",
        version="1.5.0",
        status=Status.PRODUCTION,
        description="Minimax for 3 and 4 players: each maximises its own score",
        obstacle=_CLOCK,
        neural=True,
        tree_search=True,
        boards=SQUARES,
        self_play=True,
        evaluation=True,
    ),
    AIType(
        name="brs",
        title="Best Reply Search AI",
        version="1.2.0",
        status=Status.PRODUCTION,
        description="Best-reply search for 3 and 4 players",
        obstacle=_CLOCK,
        tree_search=True,
        boards=SQUARES,
        self_play=True,
        evaluation=True,
    ),
    AIType(
        name="mcts",
        title="MCTS AI",
        version="4.0.0",
        status=Status.PRODUCTION,
        description="Monte Carlo tree search with UCB exploration",
        obstacle=_CLOCK,
        neural=True,
        tree_search=True,
        gpu=True,
        self_play=True,
        evaluation=True,
        own_policy="tree search with a fixed number of simulations",
    ),
    AIType(
        name="descent",
        title="Descent AI",
        version="2.5.0",
        status=Status.PRODUCTION,
        description="Tree search in the manner of AlphaZero with neural policy and value",
        obstacle=_CLOCK,
        neural=True,
        tree_search=True,
        gpu=True,
        self_play=True,
        evaluation=True,
    ),
    AIType(
        name="neural_demo",
        title="Neural demo AI",
        version=None,
        status=Status.EXPERIMENTAL,
        description="The network alone, for demonstrations; heuristic unless AI_ENGINE_NEURAL_DEMO_ENABLED is set",
        obstacle=_NETWORK,
        neural=True,
        gpu=True,
        self_play=True,
    ),
    AIType(
        name="policy_only",
        title="Policy-only AI",
        version="1.2.0",
        status=Status.PRODUCTION,
        description="Neural policy without tree search",
        obstacle=_NETWORK,
        deterministic=True,
        neural=True,
        gpu=True,
        self_play=True,
        evaluation=True,
    ),
    AIType(
        name="gumbel_mcts",
        title="Gumbel MCTS AI",
        version="2.0.0",
        status=Status.PRODUCTION,
        description="Gumbel AlphaZero: top-k sampling and sequential halving",
        obstacle=_NETWORK,
        deterministic=True,
        neural=True,
        tree_search=True,
        gpu=True,
        self_play=True,
        evaluation=True,
    ),
    AIType(
        name="ebmo",
        title="EBMO AI",
        version="0.5.0",
        status=Status.ARCHIVED,
        description="Energy-based move optimisation by gradient descent on action embeddings",
        obstacle=_GLOBAL,
        neural=True,
        gradient_based=True,
        multi_player=False,
        boards=SQUARES,
        gpu=True,
        self_play=True,
        deprecation=_REMOVAL,
    ),
    AIType(
        name="gmo",
        title="GMO AI",
        version="0.8.0",
        status=Status.ARCHIVED,
        description="Gradient move optimisation with entropy guidance",
        obstacle=_GLOBAL,
        neural=True,
        gradient_based=True,
        multi_player=False,
        boards=SQUARES,
        gpu=True,
        self_play=True,
        deprecation=_REMOVAL,
    ),
    AIType(
        name="gmo_v2",
        title="GMO v2 AI",
        version=None,
        status=Status.ARCHIVED,
        description="GMO with an attention encoder, ensembles and a temperature schedule",
        obstacle=_GLOBAL,
        neural=True,
        gradient_based=True,
        multi_player=False,
        boards=SQUARES,
        gpu=True,
        self_play=True,
        deprecation=_REMOVAL,
    ),
    AIType(
        name="gmo_mcts",
        title="GMO-MCTS",
        version=None,
        status=Status.DEPRECATED,
        description="Tree search with priors from GMO",
        obstacle=_GLOBAL,
        neural=True,
        tree_search=True,
        gradient_based=True,
        multi_player=False,
        boards=SQUARES,
        gpu=True,
        self_play=True,
        deprecation=_SUCCESSOR,
    ),
    AIType(
        name="gmo_gumbel",
        title="GMO-Gumbel",
        version=None,
        status=Status.DEPRECATED,
        description="Gumbel search with GMO's value network",
        obstacle=_GLOBAL,
        neural=True,
        tree_search=True,
        gradient_based=True,
        multi_player=False,
        boards=SQUARES,
        gpu=True,
        self_play=True,
        deprecation=_SUCCESSOR,
    ),
    AIType(
        name="ig_gmo",
        title="IG-GMO AI",
        version="0.3.0",
        status=Status.ARCHIVED,
        description="Information-gain GMO: exploration by mutual information over a graph network",
        obstacle=_GLOBAL,
        neural=True,
        gradient_based=True,
        multi_player=False,
        boards=SQUARES,
        gpu=True,
        self_play=True,
        deprecation=_REMOVAL,
    ),
    AIType(
        name="cage",
        title="CAGE AI",
        version=None,
        status=Status.ARCHIVED,
        description="Constraint-aware graph energy: a graph network with primal-dual optimisation",
        obstacle=_NETWORK,
        neural=True,
        gradient_based=True,
        gpu=True,
        self_play=True,
        deprecation="kept in app/ai/archive, marked deprecated among the self-play modes; use gnn or hybrid",
    ),
    AIType(
        name="improved_mcts",
        title="Improved MCTS AI",
        version=None,
        status=Status.EXPERIMENTAL,
        description="Tree search with PUCT, progressive widening and transposition tables",
        obstacle=_GLOBAL,
        neural=True,
        tree_search=True,
        gpu=True,
        self_play=True,
    ),
    AIType(
        name="hybrid_nn",
        title="Hybrid NN AI",
        version=None,
        status=Status.EXPERIMENTAL,
        description="Heuristic candidates ranked by a value network",
        obstacle=_NETWORK,
        deterministic=True,
        neural=True,
        gpu=True,
        self_play=True,
    ),
    AIType(
        name="gnn",
        title="GNN AI",
        version=None,
        status=Status.EXPERIMENTAL,
        description="Policy of a graph neural network",
        obstacle=_GLOBAL,
        neural=True,
        gpu=True,
        self_play=True,
    ),
    AIType(
        name="hybrid",
        title="Hybrid CNN-GNN AI",
        version=None,
        status=Status.EXPERIMENTAL,
        description="Policy of a convolutional and a graph network together",
        obstacle=_GLOBAL,
        neural=True,
        gpu=True,
        self_play=True,
    ),
    AIType(
        name="nnue_gumbel",
        title="NNUE Gumbel AI",
        version="1.0.0",
        status=Status.EXPERIMENTAL,
        description="Gumbel MCTS with an NNUE evaluation",
        obstacle=_NETWORK,
        neural=True,
        tree_search=True,
        evaluation=True,
    ),
    AIType(
        name="nnue_mcts",
        title="NNUE MCTS AI",
        version="1.0.0",
        status=Status.EXPERIMENTAL,
        description="Monte Carlo tree search with an NNUE evaluation",
        obstacle=_CLOCK,
        neural=True,
        tree_search=True,
    ),
    AIType(
        name="nnue_brs",
        title="NNUE BRS AI",
        version="1.0.0",
        status=Status.EXPERIMENTAL,
        description="Best-reply search with an NNUE evaluation",
        obstacle=_CLOCK,
        neural=True,
        tree_search=True,
        evaluation=True,
    ),
    AIType(
        name="nnue_maxn",
        title="NNUE MaxN AI",
        version="1.0.0",
        status=Status.EXPERIMENTAL,
        description="MaxN with an NNUE evaluation",
        obstacle=_CLOCK,
        neural=True,
        tree_search=True,
        evaluation=True,
    ),
)

AI_TYPES: Mapping[str, AIType] = MappingProxyType({ai.name: ai for ai in _TYPES})
"""Every AI type by its name, in the order of RingRift's enum."""

SOAK_PLAYS = frozenset(
    {
        "random", "heuristic", "minimax", "gpu_minimax", "maxn", "brs", "mcts", "descent", "neural_demo", "gumbel_mcts", "ig_gmo",
    }
)  # fmt: skip
"""The types that RingRift's soak really plays: for every other one its constructor (`app/main.py`, _create_ai_instance) makes a
heuristic, and the soak records the type that was asked for."""


@dataclass(frozen=True)
class Alias:
    """A name that is recorded or used for an AI and is no AI type.

    `ai` is the type it stands for, None where that depends on the game; `network` says whether that plays with a neural network,
    None where the name does not say.
    """

    name: str
    ai: str | None
    meaning: str
    source: str
    network: bool | None = None


_SOAK = "scripts/run_self_play_soak.py"
_GAUNTLET = "app/training/game_gauntlet.py"
_FACTORY = "app/ai/factory.py"

ALIASES: Mapping[str, Alias] = MappingProxyType(
    {
        alias.name: alias
        for alias in (
            Alias("descent_nn", "descent", "descent with a network; without one if no checkpoint was there", _SOAK),
            Alias("nn_descent", "descent", "descent with a network, as the soak's rotation calls it", _SOAK),
            Alias(
                "descent_best_vs_pool",
                "descent",
                "descent: one seat the best network, the others from a pool of recent ones",
                _SOAK,
            ),
            Alias("descent_heuristic", "descent", "descent without a network", _SOAK, network=False),
            Alias("heuristic_strong", "heuristic", "heuristic at difficulty 8", _GAUNTLET, network=False),
            Alias("mcts_light", "mcts", "32 simulations", _GAUNTLET),
            Alias("mcts_medium", "mcts", "128 simulations", _GAUNTLET),
            Alias("mcts_strong", "mcts", "512 simulations", _GAUNTLET),
            Alias("mcts_master", "mcts", "1024 simulations", _GAUNTLET),
            Alias("mcts_grandmaster", "mcts", "2048 simulations", _GAUNTLET),
            Alias("nnue_minimax_d4", "minimax", "minimax with NNUE at depth 4", _GAUNTLET, network=True),
            Alias("nnue_maxn_d3", "nnue_maxn", "depth 3", _GAUNTLET, network=True),
            Alias("nnue_brs_d3", "nnue_brs", "depth 3", _GAUNTLET, network=True),
            Alias("policy_only_nn", "policy_only", "the policy head of a full network", _GAUNTLET, network=True),
            Alias("policy_only_nnue", "policy_only", "the policy head of an NNUE", _GAUNTLET, network=True),
            Alias("gumbel", "gumbel_mcts", "short form", "app/training/selfplay_config.py"),
            Alias("gumbel_b64", "gumbel_mcts", "budget 64", _GAUNTLET, network=True),
            Alias("gumbel_b200", "gumbel_mcts", "budget 200", _GAUNTLET, network=True),
            Alias("gumbel_nnue", "nnue_gumbel", "another name", _GAUNTLET, network=True),
            Alias("descent_nnue", "descent", "descent with an NNUE", _GAUNTLET, network=True),
            Alias("gpu_gumbel", "gumbel_mcts", "on a GPU", _GAUNTLET, network=True),
        )
    }
)
"""Fixed names that are no AI types. Tournament agents with a number in them (`mcts_100`) are resolved by rule."""

_AGENT = re.compile(r"(gmo_mcts|gmo_gumbel|improved_mcts|mcts|gumbel|policy|difficulty|level)_([0-9]{1,6}(?:\.[0-9]{1,6})?)")
_AGENT_TYPES = {"gumbel": "gumbel_mcts", "policy": "policy_only", "difficulty": None, "level": None}
_AGENT_NUMBERS = {
    "policy": "temperature",
    "difficulty": "difficulty of the factory's ladder",
    "level": "difficulty of the factory's ladder",
}


class UnknownAI(ValueError):
    """A name that is no AI type and no known alias; the message is one line with the nearest names."""


def resolve(text: str | None) -> AIType | Alias | None:
    """What a recorded or given name means; None when none is recorded (None or blank), which is not the same as an unknown name.

    Case and hyphens do not count, as in RingRift's factory. Raises UnknownAI.
    """
    name = (text or "").strip().lower().replace("-", "_")
    if not name:
        return None
    if known := AI_TYPES.get(name) or ALIASES.get(name):
        return known
    if agent := _AGENT.fullmatch(name):
        prefix, number = agent.groups()
        meaning = f"tournament agent: {_AGENT_NUMBERS.get(prefix, 'simulations')} {number}"
        return Alias(name, _AGENT_TYPES.get(prefix, prefix), meaning, _FACTORY)
    raise UnknownAI(f"unknown AI {name[:40]!r}{_nearest(name, (*AI_TYPES, *ALIASES))}")


def type_of(text: str | None) -> AIType | None:
    """The AI type that a name stands for, through aliases; None when none is recorded or the alias does not say.

    Raises UnknownAI.
    """
    entry = resolve(text)
    if isinstance(entry, Alias):
        return AI_TYPES[entry.ai] if entry.ai else None
    return entry


@dataclass(frozen=True)
class Budget:
    """The simulation budget that a policy takes for each move: its default and its bounds."""

    default: int
    least: int
    most: int


BUDGETS: Mapping[str, Budget] = MappingProxyType({"mcts": Budget(default=64, least=1, most=100_000)})
"""By the name of a policy; policies that are not here take none."""


@dataclass(frozen=True)
class PolicySpec:
    """A policy of this project's engine to play with: the name of a playable AI type and, where it takes one, its budget.

    `str(spec)` is the form that `parse_spec` reads and that games record.
    """

    name: str
    budget: int | None = None

    def __str__(self) -> str:
        return self.name if self.budget is None else f"{self.name}:{self.budget}"

    @property
    def ai(self) -> AIType:
        """The entry of the registry."""
        return AI_TYPES[self.name]


class InvalidSpec(ValueError):
    """Text that names no policy this project can play with; the message is one line that says what to do."""


def parse_spec(text: str, config: Config | None = None) -> PolicySpec:
    """Read `NAME` or `NAME:BUDGET`, e.g. `heuristic` or `mcts:64`, for self-play on `config`.

    Without a budget a policy that takes one gets its default. Raises InvalidSpec for an unknown AI, an alias, an AI that this
    project's engine does not play, one that cannot play `config`, and a budget that is missing, out of bounds or not taken.
    """
    name, colon, number = (part.strip() for part in text.partition(":"))
    try:
        ai = resolve(name)
    except UnknownAI as error:
        raise InvalidSpec(f"{error}; {_choices()}") from error
    if ai is None:
        raise InvalidSpec(f"no AI is named in {text[:40]!r}; {_choices()}")
    if isinstance(ai, Alias):
        raise InvalidSpec(f"{ai.name} is no AI type but a name that RingRift uses ({ai.meaning}); {_choices()}")
    if not ai.playable:
        raise InvalidSpec(f"{ai.name} is played by RingRift only: {ai.obstacle}; {_choices()}")
    if config is not None and not ai.can_play(config):
        raise InvalidSpec(f"{ai.name} cannot play {config.key}, only {ai.domain}; {_choices(config)}")
    budget = BUDGETS.get(ai.name)
    if budget is None:
        if colon:
            raise InvalidSpec(f"{ai.name} takes no budget: write {ai.name}")
        return PolicySpec(ai.name)
    if not colon:
        return PolicySpec(ai.name, budget.default)
    if not re.fullmatch("[0-9]{1,9}", number) or not budget.least <= int(number) <= budget.most:
        what = f"{number[:20]!r} is no budget" if number else "a budget is missing"
        bounds = f"{budget.least} to {budget.most} simulations"
        raise InvalidSpec(f"{what} for {ai.name}: write {ai.name}:N with {bounds}, or {ai.name} for {budget.default}")
    return PolicySpec(ai.name, int(number))


def parse_specs(text: str, config: Config) -> tuple[PolicySpec, ...]:
    """Read a comma-separated list of AIs, one for all seats or one a seat, e.g. `heuristic,mcts:64`. Raises InvalidSpec."""
    return tuple(parse_spec(part, config) for part in text.split(","))


def _choices(config: Config | None = None) -> str:
    names = [
        f"{ai.name}:N" if ai.name in BUDGETS else ai.name
        for ai in AI_TYPES.values()
        if ai.playable and (config is None or ai.can_play(config))
    ]
    return f"self-play takes {', '.join(names)}"


def _nearest(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=2)
    return f" (nearest: {', '.join(near)})" if near else ""
