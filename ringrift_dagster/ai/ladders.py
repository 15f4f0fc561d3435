"""RingRift's difficulty ladders, recorded as they are, and what in them contradicts what.

Four tables say which AI plays at which difficulty, and no two of them agree: `factory` (`app/ai/factory.py`), `ladder_config`
(`app/config/ladder_config.py`, read by /ai/move), `main` (`app/main.py`, read by the soak, and by /ai/move where ladder_config has
no row) and `registry` (ranges in `app/ai/registry.py`). Nothing is corrected here: `contradictions` names what disagrees, and
`problems` what is wrong with these tables themselves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from ringrift_dagster.ai.engine_modes import ENGINE_MODE_ALIASES, ENGINE_MODES
from ringrift_dagster.ai.registry import AI_TYPES, ALIASES, ALL_BOARDS, BUDGETS, SOAK_PLAYS, AIType, Alias, Status
from ringrift_dagster.games.config import CONFIGS, PLAYER_COUNTS, Config

MAX_BUILDABLE = 10
"""RingRift's AIConfig accepts difficulties 1 to 10 (`app/models/core.py`)."""
AI_COUNT = 26

SMALL, LARGE = ("square8", "hex8"), ("square19", "hexagonal")
TWO, MORE = (2,), (3, 4)


@dataclass(frozen=True)
class Rung:
    """Which AI a ladder plays at a difficulty, on `boards` with any number of players of `players`.

    `think_ms` is the time budget of a move in milliseconds, `randomness` the share of moves at random, `network` whether it plays
    with a neural network. With `switch`, the rung holds only if that environment variable is set, and then before the others.
    """

    ladder: str
    difficulty: int
    ai: str
    boards: tuple[str, ...]
    players: tuple[int, ...]
    randomness: float
    think_ms: int
    network: bool
    source: str
    model: str | None = None
    profile: str | None = None
    switch: str | None = None

    def covers(self, config: Config) -> bool:
        """Whether the rung is about this board and number of players."""
        return config.board in self.boards and config.players in self.players


@dataclass(frozen=True)
class Registered:
    """What RingRift's own registry says of a type: difficulties `first` to `last`, its status, and whether it is deterministic."""

    first: int
    last: int
    status: Status
    deterministic: bool


REGISTERED: Mapping[str, Registered] = MappingProxyType(
    {
        "random": Registered(1, 1, Status.PRODUCTION, True),
        "heuristic": Registered(2, 2, Status.PRODUCTION, True),
        "policy_only": Registered(3, 3, Status.PRODUCTION, True),
        "minimax": Registered(4, 5, Status.PRODUCTION, True),
        "descent": Registered(6, 6, Status.PRODUCTION, True),
        "mcts": Registered(7, 8, Status.PRODUCTION, True),
        "gumbel_mcts": Registered(9, 11, Status.PRODUCTION, True),
        "maxn": Registered(4, 6, Status.PRODUCTION, True),
        "brs": Registered(5, 7, Status.PRODUCTION, True),
        "ebmo": Registered(12, 12, Status.EXPERIMENTAL, False),
        "gmo": Registered(13, 13, Status.EXPERIMENTAL, False),
        "ig_gmo": Registered(14, 14, Status.EXPERIMENTAL, False),
        "gpu_minimax": Registered(15, 15, Status.EXPERIMENTAL, True),
    }
)
"""The ladder `registry`: the ranges of `app/ai/registry.py`, which has 13 of the 26 types."""

_Row = tuple[int, str, float, int, bool, str]
"""Difficulty, AI, randomness, think_ms, network, profile id."""

_FACTORY: tuple[_Row, ...] = (
    (1, "random", 0.5, 150, False, "v2-random-1"),
    (2, "heuristic", 0.3, 200, False, "v2-heuristic-2"),
    (3, "policy_only", 0.15, 500, True, "v2-policy-3"),
    (4, "minimax", 0.08, 2000, False, "v2-minimax-4"),
    (5, "minimax", 0.05, 3000, True, "v2-minimax-5-nnue"),
    (6, "descent", 0.02, 4500, True, "v2-descent-6-neural"),
    (7, "mcts", 0.0, 6000, True, "v2-mcts-7-neural"),
    (8, "gumbel_mcts", 0.0, 8000, True, "v2-gumbel-8-expert"),
    (9, "gumbel_mcts", 0.0, 12000, True, "v2-gumbel-9-master"),
    (10, "gumbel_mcts", 0.0, 18000, True, "v2-gumbel-10-grandmaster"),
    (11, "gumbel_mcts", 0.0, 60000, True, "v2-gumbel-11-ultimate"),
    (12, "ebmo", 0.1, 1000, True, "v3-ebmo-12-experimental"),
    (13, "gmo", 0.1, 1500, True, "v3-gmo-13-experimental"),
    (14, "ig_gmo", 0.1, 2000, True, "v3-iggmo-14-experimental"),
    (15, "gpu_minimax", 0.05, 3000, True, "v3-gpuminimax-15-experimental"),
    (16, "cage", 0.1, 2000, True, "v3-cage-16-experimental"),
    (17, "gmo_mcts", 0.0, 3000, True, "v3-gmo-mcts-17-experimental"),
    (18, "gmo_v2", 0.1, 2000, True, "v3-gmov2-18-experimental"),
    (19, "gmo_v2", 0.2, 2500, True, "v3-gmov2-explore-19-experimental"),
    (20, "improved_mcts", 0.0, 8000, True, "v3-improved-mcts-20-experimental"),
    (21, "gmo_gumbel", 0.0, 3000, True, "v3-gmo-gumbel-21-experimental"),
    (22, "gnn", 0.1, 1000, True, "v3-gnn-22-experimental"),
    (23, "gnn", 0.0, 2000, True, "v3-gnn-23-experimental-strong"),
    (24, "hybrid", 0.0, 2500, True, "v3-hybrid-24-experimental"),
)
_FACTORY_MORE: tuple[_Row, ...] = (
    (4, "brs", 0.08, 2000, False, "v2-brs-4-mp"),
    (5, "maxn", 0.05, 3000, False, "v2-maxn-5-mp"),
    (6, "maxn", 0.02, 4500, True, "v2-maxn-6-mp-neural"),
    (7, "maxn", 0.0, 6000, True, "v2-maxn-7-mp-neural"),
    (8, "maxn", 0.0, 8000, True, "v2-maxn-8-mp-expert"),
    (9, "maxn", 0.0, 12000, True, "v2-maxn-9-mp-master"),
    (10, "maxn", 0.0, 18000, True, "v2-maxn-10-mp-grandmaster"),
)
_FACTORY_LARGE: tuple[_Row, ...] = (
    (4, "descent", 0.08, 2500, True, "v2-descent-4-large"),
    (5, "descent", 0.05, 3500, True, "v2-descent-5-large"),
    (6, "mcts", 0.02, 5000, True, "v2-mcts-6-large"),
    (7, "mcts", 0.0, 7000, True, "v2-mcts-7-large"),
)
_FACTORY_SWITCHES: tuple[tuple[str, str, _Row], ...] = (
    ("RINGRIFT_USE_IG_GMO", "IG_GMO_DIFFICULTY_OVERRIDE", (3, "ig_gmo", 0.1, 2000, True, "v3-iggmo-3-experimental")),
    ("RINGRIFT_USE_EBMO", "EBMO_DIFFICULTY_OVERRIDE", (3, "ebmo", 0.1, 1000, True, "v3-ebmo-3-experimental")),
    ("RINGRIFT_USE_HYBRID_D7", "HYBRID_NN_D7_OVERRIDE", (7, "hybrid_nn", 0.0, 500, True, "v3-hybridnn-7-fast")),
)
_MAIN: tuple[_Row, ...] = (
    (1, "random", 0.5, 150, False, "v1-random-1"),
    (2, "heuristic", 0.3, 200, False, "v1-heuristic-2"),
    (3, "minimax", 0.15, 1800, False, "v1-minimax-3"),
    (4, "minimax", 0.08, 2800, True, "v1-minimax-4-nnue"),
    (5, "descent", 0.05, 4000, True, "ringrift_best_sq8_2p"),
    (6, "descent", 0.02, 5500, True, "ringrift_best_sq8_2p"),
    (7, "mcts", 0.0, 7500, False, "v1-mcts-7"),
    (8, "mcts", 0.0, 9600, True, "ringrift_best_sq8_2p"),
    (9, "gumbel_mcts", 0.0, 12600, True, "ringrift_best_sq8_2p"),
    (10, "gumbel_mcts", 0.0, 16000, True, "ringrift_best_sq8_2p"),
)

_Tier = tuple[int, str, float, int, bool, str | None]
"""Difficulty, AI, randomness, think_ms, network, model id; BEST, NNUE and PROFILE stand for the ids of the config."""
BEST, NNUE, PROFILE = "ringrift_best_{short}", "nnue_{key}", "heuristic_v1_{profile}"

_SQUARE8_2P: tuple[_Tier, ...] = (
    (2, "heuristic", 0.1, 500, False, "heuristic_v1_medium"),
    (3, "heuristic", 0.05, 3500, False, PROFILE),
    (4, "minimax", 0.08, 2800, True, NNUE),
    (5, "minimax", 0.05, 5500, True, NNUE),
    (6, "descent", 0.02, 5500, True, BEST),
    (7, "mcts", 0.0, 9600, False, None),
    (8, "mcts", 0.0, 9600, True, BEST),
    (9, "gumbel_mcts", 0.0, 12600, True, BEST),
    (10, "gumbel_mcts", 0.0, 16000, True, BEST),
    (11, "gumbel_mcts", 0.0, 60000, True, BEST),
)
_SQUARE8_3P: tuple[_Tier, ...] = (
    (2, "heuristic", 0.3, 250, False, PROFILE),
    (3, "minimax", 0.15, 2000, False, "v1-minimax-3p-3"),
    (4, "minimax", 0.08, 3200, True, NNUE),
    (5, "mcts", 0.05, 4500, False, "v1-mcts-3p-5"),
    (6, "mcts", 0.02, 6000, True, BEST),
    (7, "mcts", 0.0, 8500, False, None),
    (8, "mcts", 0.0, 11000, True, BEST),
    (9, "descent", 0.0, 14000, True, BEST),
    (10, "descent", 0.0, 18000, True, BEST),
    (11, "descent", 0.0, 75000, True, BEST),
)
_SQUARE8_4P: tuple[_Tier, ...] = (
    (2, "heuristic", 0.3, 300, False, PROFILE),
    (3, "minimax", 0.15, 2200, False, "v1-minimax-4p-3"),
    (4, "minimax", 0.08, 3500, True, NNUE),
    (5, "mcts", 0.05, 5000, False, "v1-mcts-4p-5"),
    (6, "mcts", 0.02, 6500, True, BEST),
    (7, "mcts", 0.0, 9000, False, None),
    (8, "mcts", 0.0, 12000, True, BEST),
    (9, "descent", 0.0, 15000, True, BEST),
    (10, "descent", 0.0, 20000, True, BEST),
    (11, "descent", 0.0, 90000, True, BEST),
)
_LARGE_THINK_MS: Mapping[int, tuple[int, ...]] = MappingProxyType(
    {
        2: (300, 2500, 4000, 6000, 8000, 11000, 14000, 18000, 24000, 90000),
        3: (350, 2700, 4300, 6500, 9000, 12500, 15500, 20000, 26000, 90000),
        4: (400, 3000, 4800, 7000, 10000, 14000, 17000, 22000, 28000, 90000),
    }
)
"""By number of players: the time budgets of difficulties 2 to 11 on square19 and hexagonal."""
_LARGE_TIERS: tuple[tuple[str, float, bool, str | None], ...] = (
    ("heuristic", 0.3, False, PROFILE),
    ("descent", 0.15, True, BEST),
    ("descent", 0.08, True, BEST),
    ("descent", 0.05, True, BEST),
    ("descent", 0.02, True, BEST),
    ("mcts", 0.0, False, None),
    ("mcts", 0.0, True, BEST),
    ("gumbel_mcts", 0.0, True, BEST),
    ("gumbel_mcts", 0.0, True, BEST),
    ("gumbel_mcts", 0.0, True, BEST),
)
_SHORT = {"square8": ("sq8", "sq8"), "square19": ("sq19", "sq19"), "hexagonal": ("hexagonal", "hex")}
"""Boards as `ladder_config` writes them in ids: of models, of heuristic profiles."""


def _profile_rungs(
    ladder: str, table: str, rows: Iterable[_Row], boards: tuple[str, ...], players: tuple[int, ...], switch: str | None = None
) -> Iterator[Rung]:
    source = f"{'app/ai/factory.py' if ladder == 'factory' else 'app/main.py'}: {table}"
    for difficulty, ai, randomness, think_ms, network, profile in rows:
        yield Rung(ladder, difficulty, ai, boards, players, randomness, think_ms, network, source, profile=profile, switch=switch)


def _factory() -> Iterator[Rung]:
    """The factory's table under its overrides: more than two players come before large boards."""
    more, large = {row[0] for row in _FACTORY_MORE}, {row[0] for row in _FACTORY_LARGE}
    for row in _FACTORY:
        covers = [(SMALL, TWO)] if row[0] in large else [(ALL_BOARDS, TWO)] if row[0] in more else [(ALL_BOARDS, PLAYER_COUNTS)]
        for boards, players in covers:
            yield from _profile_rungs("factory", "CANONICAL_DIFFICULTY_PROFILES", [row], boards, players)
    yield from _profile_rungs("factory", "MULTIPLAYER_DIFFICULTY_OVERRIDES", _FACTORY_MORE, ALL_BOARDS, MORE)
    yield from _profile_rungs("factory", "LARGE_BOARD_DIFFICULTY_OVERRIDES", _FACTORY_LARGE, LARGE, TWO)
    for switch, table, row in _FACTORY_SWITCHES:
        yield from _profile_rungs("factory", table, [row], ALL_BOARDS, PLAYER_COUNTS, switch)


def _tiers(board: str, players: int, rows: Iterable[_Tier]) -> Iterator[Rung]:
    short, profile = _SHORT[board]
    ids = {"short": f"{short}_{players}p", "key": f"{board}_{players}p", "profile": f"{profile}_{players}p"}
    for difficulty, ai, randomness, think_ms, network, model in rows:
        yield Rung(
            "ladder_config",
            difficulty,
            ai,
            (board,),
            (players,),
            randomness,
            think_ms,
            network,
            "app/config/ladder_config.py",
            model=model and model.format(**ids),
            profile="heuristic_v1_medium" if model == "heuristic_v1_medium" else PROFILE.format(**ids),
        )


def _ladder_config() -> Iterator[Rung]:
    yield Rung("ladder_config", 1, "random", ("square8",), TWO, 0.5, 150, False, "app/config/ladder_config.py")
    for players, rows in ((2, _SQUARE8_2P), (3, _SQUARE8_3P), (4, _SQUARE8_4P)):
        yield from _tiers("square8", players, rows)
    for board in LARGE:
        for players, times in _LARGE_THINK_MS.items():
            tiers = zip(range(2, 12), _LARGE_TIERS, times, strict=True)
            yield from _tiers(board, players, [(at, ai, chance, ms, net, model) for at, (ai, chance, net, model), ms in tiers])


RUNGS: tuple[Rung, ...] = (
    *_factory(),
    *_ladder_config(),
    *_profile_rungs("main", "_CANONICAL_DIFFICULTY_PROFILES", _MAIN, ALL_BOARDS, PLAYER_COUNTS),
)
"""The rungs of the ladders `factory`, `ladder_config` and `main`; the ranges of `registry` are REGISTERED."""

LADDERS = ("factory", "ladder_config", "main", "registry")


def rungs_of(name: str) -> list[Rung]:
    """The rungs that play this AI type."""
    return [rung for rung in RUNGS if rung.ai == name]


def difficulties_of(name: str) -> dict[str, list[int]]:
    """The difficulties at which each ladder plays this AI type, on whatever board; ladders that never do are left out."""
    by_ladder: dict[str, set[int]] = defaultdict(set)
    for rung in rungs_of(name):
        by_ladder[rung.ladder if rung.switch is None else f"{rung.ladder} with {rung.switch}"].add(rung.difficulty)
    if registered := REGISTERED.get(name):
        by_ladder["registry"].update(range(registered.first, registered.last + 1))
    return {ladder: sorted(difficulties) for ladder, difficulties in by_ladder.items()}


def spans(difficulties: Iterable[int]) -> str:
    """Difficulties in ascending order as text: `D3, D5-D10`."""
    runs: list[list[int]] = []
    for value in difficulties:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(f"D{run[0]}" if len(run) == 1 else f"D{run[0]}-D{run[-1]}" for run in runs)


def difficulties_text(name: str) -> str:
    """The difficulties of an AI type as text: `factory D2; registry D2`."""
    return "; ".join(f"{ladder} {spans(values)}" for ladder, values in difficulties_of(name).items())


class Code(StrEnum):
    """Kinds of contradiction between RingRift's tables."""

    TYPES = "ladders_name_different_types"
    NETWORK = "ladders_differ_in_network"
    BUDGETS = "ladders_differ_in_budget"
    ENDS = "ladders_end_differently"
    NO_RUNG = "no_rung"
    UNBUILDABLE = "unbuildable_difficulty"
    PROFILE = "profile_of_another_config"
    CAPABILITIES = "rung_outside_capabilities"
    RANGE = "rung_outside_registered_range"
    UNUSED_RANGE = "registered_difficulty_without_rung"
    OVERLAP = "registered_ranges_overlap"
    UNREGISTERED = "rung_of_unregistered_type"
    STATUS = "status_differs"
    DETERMINISM = "determinism_differs"
    AGENT = "agent_plays_another_type"
    REPLACED = "soak_plays_heuristic_instead"


@dataclass(frozen=True)
class Contradiction:
    """One contradiction: its code, what it is about (a difficulty such as `D3`, an AI type, a board, a ladder), and the detail."""

    code: Code
    subject: str
    detail: str


KNOWN: Mapping[Code, tuple[str, ...]] = MappingProxyType(
    {
        Code.TYPES: ("D3", "D4", "D5", "D6", "D7", "D8", "D9", "D10", "D11"),
        Code.NETWORK: ("D4", "D7"),
        Code.BUDGETS: ("D2", "D3", "D4", "D5", "D6", "D7", "D8", "D9", "D10", "D11"),
        Code.ENDS: ("ladders",),
        Code.UNBUILDABLE: ("factory", "ladder_config", "registry"),
        Code.NO_RUNG: ("hex8", "D1"),
        Code.PROFILE: ("main",),
        Code.CAPABILITIES: (
            "minimax", "brs", "maxn", "ebmo", "gmo", "ig_gmo", "gpu_minimax", "gmo_mcts", "gmo_v2", "gmo_gumbel",
        ),
        Code.RANGE: ("heuristic", "minimax", "descent", "mcts", "gumbel_mcts", "brs", "maxn"),
        Code.UNUSED_RANGE: ("maxn", "brs"),
        Code.OVERLAP: ("D4", "D5", "D6", "D7"),
        Code.UNREGISTERED: ("cage", "gmo_mcts", "gmo_v2", "improved_mcts", "gmo_gumbel", "gnn", "hybrid"),
        Code.STATUS: ("ebmo", "gmo", "ig_gmo"),
        Code.DETERMINISM: ("minimax", "descent", "mcts", "maxn", "brs", "gpu_minimax"),
        Code.AGENT: ("minimax",),
        Code.REPLACED: (
            "policy_only", "ebmo", "gmo", "gmo_v2", "gmo_mcts", "gmo_gumbel", "cage", "improved_mcts", "hybrid_nn", "gnn", "hybrid",
        ),
    }
)  # fmt: skip
"""The contradictions that RingRift has at commit 2aa9f89b5: by code, their subjects."""

AGENT_DIFFICULTIES = {"random": 1, "heuristic": 2, "minimax": 3}
"""Tournament agents that the factory builds from a difficulty of its own ladder (create_for_tournament)."""


def contradictions(
    rungs: Iterable[Rung] = RUNGS,
    types: Mapping[str, AIType] = AI_TYPES,
    registered: Mapping[str, Registered] = REGISTERED,
) -> list[Contradiction]:
    """Everything in which RingRift's ladders, its registry and its code contradict each other, in a fixed order.

    One entry a code and subject, however many configs it concerns; the detail names these. Rungs behind a switch are left out.
    """
    rungs = [rung for rung in rungs if rung.switch is None]
    return [
        *_between_ladders(rungs),
        *_budgets(rungs),
        *_ends(rungs, registered),
        *_gaps(rungs),
        *_foreign_profiles(rungs),
        *_outside_capabilities(rungs, types),
        *_against_registry(rungs, registered),
        *_against_code(rungs, types, registered),
    ]


def _between_ladders(rungs: Iterable[Rung]) -> Iterator[Contradiction]:
    """Difficulties at which the ladders name different types, or the same type with and without a network, for one config."""
    types: dict[int, dict[str, list[Config]]] = defaultdict(lambda: defaultdict(list))
    networks: dict[int, dict[str, list[Config]]] = defaultdict(lambda: defaultdict(list))
    for difficulty, config, here in _by_config(rungs):
        if len({rung.ai for rung in here}) > 1:
            types[difficulty][", ".join(f"{rung.ladder} {rung.ai}" for rung in here)].append(config)
        for same in _of_one_type(here):
            if len({rung.network for rung in same}) > 1:
                says = ", ".join(f"{rung.ladder} {'with' if rung.network else 'without'}" for rung in same)
                networks[difficulty][f"{same[0].ai}: {says}"].append(config)
    for code, by_difficulty in ((Code.TYPES, types), (Code.NETWORK, networks)):
        for difficulty, by_text in by_difficulty.items():
            detail = "; ".join(f"{_names(configs)}: {text}" for text, configs in by_text.items())
            yield Contradiction(code, f"D{difficulty}", detail)


def _budgets(rungs: Iterable[Rung]) -> Iterator[Contradiction]:
    """Difficulties at which ladders give one type different time or randomness in one config; the detail gives the ranges."""
    differing: dict[int, dict[tuple[str, str], list[Rung]]] = defaultdict(lambda: defaultdict(list))
    for difficulty, _, here in _by_config(rungs):
        for same in _of_one_type(here):
            if len({(rung.randomness, rung.think_ms) for rung in same}) > 1:
                for rung in same:
                    differing[difficulty][rung.ai, rung.ladder].append(rung)
    for difficulty, by_ladder in differing.items():
        detail = "; ".join(
            f"{ai} in {ladder}: randomness {_range(rung.randomness for rung in same)}, {_range(rung.think_ms for rung in same)} ms"
            for (ai, ladder), same in by_ladder.items()
        )
        yield Contradiction(Code.BUDGETS, f"D{difficulty}", detail)


def _ends(rungs: Iterable[Rung], registered: Mapping[str, Registered]) -> Iterator[Contradiction]:
    """Ladders of different height, and difficulties that no AI can be built for."""
    highest = {"registry": max((entry.last for entry in registered.values()), default=0)}
    for rung in rungs:
        highest[rung.ladder] = max(highest.get(rung.ladder, 0), rung.difficulty)
    if len(set(highest.values())) > 1:
        detail = ", ".join(f"{ladder} D{highest[ladder]}" for ladder in LADDERS if ladder in highest)
        yield Contradiction(Code.ENDS, "ladders", f"highest difficulty: {detail}")
    for ladder in LADDERS:
        if highest.get(ladder, 0) > MAX_BUILDABLE:
            above = spans(range(MAX_BUILDABLE + 1, highest[ladder] + 1))
            yield Contradiction(Code.UNBUILDABLE, ladder, f"{above}: AIConfig refuses a difficulty above {MAX_BUILDABLE}")


def _gaps(rungs: Iterable[Rung]) -> Iterator[Contradiction]:
    """Configs for which a ladder has no rung at a difficulty that it has for others; boards that it lacks altogether come first."""
    covered: dict[str, dict[int, set[Config]]] = defaultdict(lambda: defaultdict(set))
    for difficulty, config, here in _by_config(rungs):
        for rung in here:
            covered[rung.ladder][difficulty].add(config)
    for ladder, by_difficulty in covered.items():
        boards = {config.board for configs in by_difficulty.values() for config in configs}
        for board in (board for board in ALL_BOARDS if board not in boards):
            yield Contradiction(Code.NO_RUNG, board, f"{ladder} has no rung for this board; /ai/move then takes ladder main")
        for difficulty, configs in by_difficulty.items():
            if missing := [config for config in CONFIGS if config.board in boards and config not in configs]:
                yield Contradiction(Code.NO_RUNG, f"D{difficulty}", f"{ladder} has none for {_names(missing)}")


def _foreign_profiles(rungs: Iterable[Rung]) -> Iterator[Contradiction]:
    """Rungs for several configs that have the model id of one of them."""
    by_profile: dict[tuple[str, str], list[int]] = defaultdict(list)
    for rung in rungs:
        if rung.profile and rung.profile.startswith("ringrift_best_") and len(rung.boards) * len(rung.players) > 1:
            by_profile[rung.ladder, rung.profile].append(rung.difficulty)
    for (ladder, profile), difficulties in by_profile.items():
        yield Contradiction(
            Code.PROFILE, ladder, f"profile {profile} at {spans(difficulties)}, whatever the board and the number of players"
        )


def _outside_capabilities(rungs: Iterable[Rung], types: Mapping[str, AIType]) -> Iterator[Contradiction]:
    """Types that a ladder plays in configs which the registry says they cannot play."""
    outside: dict[str, dict[str, set[tuple[int, Config]]]] = defaultdict(lambda: defaultdict(set))
    for difficulty, config, here in _by_config(rungs):
        for rung in here:
            if rung.ai in types and not types[rung.ai].can_play(config):
                outside[rung.ai][rung.ladder].add((difficulty, config))
    for ai, by_ladder in outside.items():
        detail = "; ".join(
            f"{ladder} {spans(sorted({difficulty for difficulty, _ in where}))} for "
            f"{_names(config for config in CONFIGS if config in {config for _, config in where})}"
            for ladder, where in by_ladder.items()
        )
        yield Contradiction(Code.CAPABILITIES, ai, f"it plays {types[ai].domain}; {detail}")


def _against_registry(rungs: Iterable[Rung], registered: Mapping[str, Registered]) -> Iterator[Contradiction]:
    """Rungs outside the registered ranges, registered difficulties without a rung, ranges of several types, unregistered types."""
    placed: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for rung in rungs:
        placed[rung.ai][rung.ladder].add(rung.difficulty)
    for ai, by_ladder in placed.items():
        entry = registered.get(ai)
        outside = {
            ladder: sorted(at for at in difficulties if entry is None or not entry.first <= at <= entry.last)
            for ladder, difficulties in by_ladder.items()
        }
        if any(outside.values()):
            detail = "; ".join(f"{ladder} {spans(at)}" for ladder, at in outside.items() if at)
            if entry is None:
                yield Contradiction(Code.UNREGISTERED, ai, f"{detail}; RingRift's registry has no such type")
            else:
                yield Contradiction(Code.RANGE, ai, f"registered for {spans(range(entry.first, entry.last + 1))}; {detail}")
    for ai, entry in registered.items():
        on_ladders = {at for difficulties in placed[ai].values() for at in difficulties}
        if unused := sorted(set(range(entry.first, entry.last + 1)) - on_ladders):
            yield Contradiction(Code.UNUSED_RANGE, ai, f"no ladder plays it at {spans(unused)}")
    for difficulty in range(1, max((entry.last for entry in registered.values()), default=0) + 1):
        if len(several := [ai for ai, entry in registered.items() if entry.first <= difficulty <= entry.last]) > 1:
            yield Contradiction(Code.OVERLAP, f"D{difficulty}", f"registered for {', '.join(several)}")


def _against_code(
    rungs: Iterable[Rung], types: Mapping[str, AIType], registered: Mapping[str, Registered]
) -> Iterator[Contradiction]:
    """What the registry or a name says that the code does not do."""
    for ai, entry in registered.items():
        if ai in types and types[ai].status is not entry.status:
            detail = f"registered as {entry.status}; the code: {types[ai].deprecation or types[ai].status}"
            yield Contradiction(Code.STATUS, ai, detail)
    for ai, entry in registered.items():
        if ai in types and types[ai].deterministic != entry.deterministic:
            detail = f"registered as {'' if entry.deterministic else 'not '}deterministic; the code: {types[ai].obstacle}"
            yield Contradiction(Code.DETERMINISM, ai, detail)
    for agent, difficulty in AGENT_DIFFICULTIES.items():
        played = {rung.ai for rung in rungs if (rung.ladder, rung.difficulty) == ("factory", difficulty)} - {agent}
        if played:
            detail = f"the tournament agent {agent} is D{difficulty} of the factory, which is {', '.join(sorted(played))}"
            yield Contradiction(Code.AGENT, agent, detail)
    for ai in types.values():
        if ai.self_play and ai.name not in SOAK_PLAYS:
            yield Contradiction(
                Code.REPLACED, ai.name, "the soak records this type and plays heuristic: app/main.py makes no other"
            )


def unacknowledged(present: Iterable[Contradiction] | None = None) -> list[str]:
    """Contradictions that are not in KNOWN, and entries of KNOWN that are contradictions no more; one line each."""
    keys = {(entry.code, entry.subject) for entry in (contradictions() if present is None else present)}
    known = {(code, subject) for code, subjects in KNOWN.items() for subject in subjects}
    return [
        *(f"contradiction not known: {code} {subject}" for code, subject in sorted(keys - known)),
        *(f"known contradiction is gone: {code} {subject}" for code, subject in sorted(known - keys)),
    ]


def problems(
    types: Mapping[str, AIType] = AI_TYPES, aliases: Mapping[str, Alias] = ALIASES, rungs: Iterable[Rung] = RUNGS
) -> list[str]:
    """What is wrong with our own tables, one line a problem; empty when they are consistent."""
    rungs = list(rungs)
    return [*_bad_types(types), *_dangling(types, aliases, rungs), *_bad_rungs(rungs)]


def _bad_types(types: Mapping[str, AIType]) -> Iterator[str]:
    if len(types) != AI_COUNT:
        yield f"{len(types)} AI types, RingRift has {AI_COUNT}"
    for name, ai in types.items():
        if name != ai.name:
            yield f"{name}: the entry is named {ai.name}"
        if not all((ai.title, ai.description, ai.obstacle, ai.boards)):
            yield f"{name}: title, description, obstacle or boards is empty"
        if unknown := set(ai.boards) - set(ALL_BOARDS):
            yield f"{name}: no such board: {', '.join(sorted(unknown))}"
        if (ai.status in (Status.DEPRECATED, Status.ARCHIVED)) != (ai.deprecation is not None):
            yield f"{name}: {ai.status}, but deprecation is {ai.deprecation!r}"
        if ai.deterministic and ai.gradient_based:
            yield f"{name}: gradient-based types draw from global random state and are not deterministic"
    for name in BUDGETS:
        if name not in types or not types[name].playable:
            yield f"{name}: has a budget and no policy"


def _dangling(types: Mapping[str, AIType], aliases: Mapping[str, Alias], rungs: Iterable[Rung]) -> Iterator[str]:
    """Names that stand for no AI type, and aliases with the name of one."""
    for name, alias in aliases.items():
        if name in types or name != alias.name:
            yield f"alias {name}: is an AI type, or stands under another name"
    named = [
        *((f"alias {alias.name}", alias.ai) for alias in aliases.values() if alias.ai is not None),
        *((f"engine mode {mode.name}", ai) for mode in ENGINE_MODES.values() for ai in mode.types),
        *((f"{rung.ladder} D{rung.difficulty}", rung.ai) for rung in rungs),
        *(("registered ranges", ai) for ai in REGISTERED),
        *(("the soak's types", ai) for ai in sorted(SOAK_PLAYS)),
    ]
    yield from (f"{where}: no AI type is named {ai}" for where, ai in named if ai not in types)
    yield from (
        f"engine mode alias {name}: no mode {mode}" for name, mode in ENGINE_MODE_ALIASES.items() if mode not in ENGINE_MODES
    )


def _bad_rungs(rungs: Iterable[Rung]) -> Iterator[str]:
    """Values out of range, and two rungs of one ladder for one difficulty and config."""
    seen: set[tuple[str, int, Config]] = set()
    for rung in rungs:
        where = f"{rung.ladder} D{rung.difficulty}"
        if rung.ladder not in LADDERS or not 1 <= rung.difficulty <= 24 or not 0 <= rung.randomness <= 1 or rung.think_ms <= 0:
            yield f"{where}: ladder, difficulty, randomness or time is out of range"
        for config in CONFIGS:
            if rung.switch is None and rung.covers(config):
                if (rung.ladder, rung.difficulty, config) in seen:
                    yield f"{where}: two rungs for {config.key}"
                seen.add((rung.ladder, rung.difficulty, config))


def _by_config(rungs: Iterable[Rung]) -> Iterator[tuple[int, Config, list[Rung]]]:
    """Every difficulty and config with the rungs of all ladders for it."""
    rungs = list(rungs)
    for difficulty in sorted({rung.difficulty for rung in rungs}):
        at = [rung for rung in rungs if rung.difficulty == difficulty]
        for config in CONFIGS:
            if here := [rung for rung in at if rung.covers(config)]:
                yield difficulty, config, here


def _of_one_type(rungs: list[Rung]) -> Iterator[list[Rung]]:
    """Groups of at least two rungs that play the same type."""
    for ai in dict.fromkeys(rung.ai for rung in rungs):
        if len(same := [rung for rung in rungs if rung.ai == ai]) > 1:
            yield same


def _names(configs: Iterable[Config]) -> str:
    """Configs in few words: `square8_3p/4p`, and a board of which all are meant by its name."""
    players: dict[str, list[int]] = defaultdict(list)
    for config in configs:
        players[config.board].append(config.players)
    return ", ".join(
        board if len(counts) == len(PLAYER_COUNTS) else f"{board}_{'/'.join(f'{count}p' for count in counts)}"
        for board, counts in players.items()
    )


def _range(values: Iterable[float]) -> str:
    low, high = min(values := list(values)), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
