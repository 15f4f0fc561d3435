"""RingRift's contract vectors: a state, a move, and what its engines have to make of them.

The vectors (`tests/data/contract_vectors`, MIT, see LICENSE there) are RingRift's `tests/fixtures/contract-vectors/v2`. The keys of
their assertions mean what RingRift's runners take them for (`validateAgainstAssertions`), and as in these, a vector that expects
status `complete` lets the host record `no_line_action` and `no_territory_action` where nothing else is legal. What RingRift's
runners do not check is checked here too: whether the move is legal, and the deltas of S = markers + collapsed spaces +
eliminated rings.

Some vectors are older than the rules. RingRift's runner does not notice: `processTurn` applies moves that `getValidMoves` does not
list. Each of these is in CONTRADICTIONS with what the rules say instead; all of it was compared with what RingRift's TypeScript
engine lists and plays.
"""

from __future__ import annotations

import lzma
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from ringrift_dagster.games.config import BOARDS, Config
from ringrift_dagster.games.geometry import coordinates, topology
from ringrift_dagster.games.moves import Phase, pack
from ringrift_dagster.games.position import ACTIVE, STATUSES, Position, UnreadableState
from ringrift_dagster.games.rules.legality import Fault, fault, has_line_move
from ringrift_dagster.games.rules.turns import play
from tests.games.serialized_states import read_serialized_state

FOLDER = Path(__file__).parents[1] / "data" / "contract_vectors"
VECTORS: dict[str, dict[str, Any]] = {
    vector["id"]: vector
    for path in sorted(FOLDER.glob("*.json.xz"))
    for vector in orjson.loads(lzma.decompress(path.read_bytes()))["vectors"]
}
BOOKKEEPING = {Phase.LINE_PROCESSING: "no_line_action", Phase.TERRITORY_PROCESSING: "no_territory_action"}


@dataclass(frozen=True)
class Contradiction:
    """Where a vector and the rules differ.

    `faults` are those of the vector's moves in order; refused moves are played all the same, as RingRift's runner does. `ours`
    has what the rules make of the assertions that fail. `unreadable` is part of the error that the state is refused with.
    """

    why: str
    faults: tuple[Fault, ...] = ()
    ours: Mapping[str, Any] = field(default_factory=dict)
    unreadable: str | None = None
    beyond_repair: bool = False


_NOT_APART = "nothing separates the region from the rest of the board (R140, R141)"
_UNPAID = {"status": "awaiting_decision"}  # the claim has to be paid for, which a stack outside can do (R145)
_NOTHING_CLAIMED = "no region was claimed by the move before, so nothing has to be paid (R145)"
_TOO_NEAR = "a stack lands at least as far away as it is high (R101)"
_OLD_PHASE = "the move is recorded in a phase that does not have it (R073, R075); RingRift's runner throws"
_OLD_TURN = "the move is recorded in the turn of the other player (R073); RingRift's runner throws"
_ONE_PLAYER = "games have 2 to 4 players (R010)"
_NO_THRESHOLDS = "a state says what wins; and player 2 alone has rings once player 1 paid the last one, which ends the game (R170)"
_OFF_BOARD = "a stack is off the board (R002)"
_OWN_MARKER = "the chain ends on an own marker, which is removed and costs a ring (R102); RingRift's runner leaves S out"
_CROSSED = "the stack crosses its own markers, which collapse (R092), and no line is left; RingRift's runner leaves decisions out"

CONTRADICTIONS: dict[str, Contradiction] = {
    **dict.fromkeys(
        (
            "forced_elimination.territory_no_host_fe.square8",
            "multi_phase.line_then_multi_region_territory.square19.step2_regionB",
            "multi_phase.line_then_multi_region_territory.square19.step3_regionA",
            "multi_phase.line_then_multi_region_territory.hex.step2_regionB",
            "multi_phase.line_then_multi_region_territory.hex.step3_regionA",
            "territory_line.decision_auto_exit.square8",
        ),
        Contradiction("the board is empty: no region is claimed", faults=(Fault.NOT_A_REGION,)),
    ),
    **dict.fromkeys(
        (
            "near_victory_territory.process.multi_cell_region",
            "territory.square_region_then_elim.step1_region",
            "territory.square_two_regions_then_elim.step1_regionB",
            "territory.square19_two_regions_then_elim.step1_regionB",
            "territory_processing.mizw0rb1.wpbd",
        ),
        Contradiction(_NOT_APART, faults=(Fault.NOT_A_REGION,)),
    ),
    **dict.fromkeys(
        (
            "hex_edge_case.corner_region.case1.hexagonal",
            "multi_phase.line_then_multi_region_territory.square8.step2_regionB",
            "multi_phase.line_then_multi_region_territory.square8.step3_regionA",
            "territory.hex_region_then_elim.step1_region",
            "territory.hex_two_regions_then_elim.step1_regionB",
            "territory_line.single_point_swing.square19",
        ),
        Contradiction(_NOT_APART, faults=(Fault.NOT_A_REGION,), ours=_UNPAID),
    ),
    "near_victory_territory.process.single_region": Contradiction(
        "of regions that collapsed spaces enclose, both engines claim only those in which one player has stacks, against R142",
        faults=(Fault.NOT_A_REGION,),
    ),
    **dict.fromkeys(
        (
            "forced_elimination.territory_explicit.square8",
            "territory.square_two_regions_then_elim.step3_elim",
            "territory.square19_two_regions_then_elim.step3_elim",
            "territory.hex_two_regions_then_elim.step3_elim",
        ),
        Contradiction(_NOTHING_CLAIMED, faults=(Fault.NOTHING_TO_PAY,)),
    ),
    **dict.fromkeys(
        ("forced_elimination.monotone_chain.step1.square8", "forced_elimination.anm_guard.hexagonal"),
        Contradiction(f"{_ONE_PLAYER}; {_NOTHING_CLAIMED}", faults=(Fault.NOTHING_TO_PAY,), unreadable="fit no config"),
    ),
    **dict.fromkeys(
        ("forced_elimination.monotone_chain.step2.square8", "forced_elimination.monotone_chain.final.square8"),
        Contradiction(f"{_ONE_PLAYER}; {_OLD_PHASE}", faults=(Fault.NOT_IN_PHASE,), unreadable="fit no config"),
    ),
    **dict.fromkeys(
        (
            "territory.hex_region_then_elim.step2_elim",
            "territory.square_region_then_elim.step2_elim",
            "territory.square_two_regions_then_elim.step2_regionA",
            "territory.square19_two_regions_then_elim.step2_regionA",
            "territory.hex_two_regions_then_elim.step2_regionA",
        ),
        Contradiction(_OLD_TURN, faults=(Fault.WRONG_PLAYER,)),
    ),
    "territory.forced_elimination.simple_square8": Contradiction(
        f"{_OLD_TURN}; and the game ends in the phase game_over, in the winner's name",
        faults=(Fault.WRONG_PLAYER,),
        ours={"currentPlayer": 1, "currentPhase": "game_over"},
    ),
    **dict.fromkeys(
        (
            "chain_capture.depth3.segment3.square8",
            "chain_capture.depth3.segment3.square19",
            "chain_capture.depth3.segment1.hexagonal",
            "chain_capture.depth3.segment3.hexagonal",
            "hex_edge_case.edge_chain.segment2.hexagonal",
        ),
        Contradiction(_TOO_NEAR, faults=(Fault.NO_CAPTURE,)),
    ),
    "chain_capture.depth3.segment2.hexagonal": Contradiction(_OLD_PHASE, faults=(Fault.NOT_IN_PHASE,)),
    "chain_capture.4_targets.diagonal_with_turn_theoretical": Contradiction(
        f"{_TOO_NEAR}; and markers stay where the stack stood, not where it captured (R102)",
        faults=(Fault.NONE, Fault.NONE, Fault.NO_CAPTURE, Fault.NO_CAPTURE),
        ours={"markerPositions": ["0,0", "2,2", "4,4", "6,6"]},
    ),
    "chain_capture.5_plus_targets.extended_zigzag_theoretical": Contradiction(
        f"{_TOO_NEAR}; and markers stay where the stack stood, not where it captured (R102)",
        faults=(Fault.NONE, Fault.NONE, Fault.NO_CAPTURE, Fault.NO_CAPTURE, Fault.NOT_IN_PHASE),
        ours={"markerPositions": ["0,0", "2,2", "4,4", "4,6", "6,6"]},
    ),
    "meta.swap_sides.after_p1_first_move.square8": Contradiction(
        "sides are swapped in ring placement only (R180); RingRift's runner throws", faults=(Fault.NOT_IN_PHASE,)
    ),
    **dict.fromkeys(
        (
            "multi_phase.placement_capture_line",
            "multi_phase.full_sequence_with_territory",
            "multi_phase.full_sequence_with_territory_square19",
        ),
        Contradiction(_OWN_MARKER, ours={"sInvariantDelta": 2}),
    ),
    "multi_phase.line_then_multi_region_territory.square8.step1_line": Contradiction(
        "a line of the required length collapses as a whole (R122)", faults=(Fault.NOT_A_LINE,)
    ),
    **dict.fromkeys(
        (
            "multi_phase.line_then_multi_region_territory.square19.step1_line",
            "multi_phase.line_then_multi_region_territory.hex.step1_line",
        ),
        Contradiction("the board is empty: no line is processed", faults=(Fault.NOT_A_LINE,)),
    ),
    **dict.fromkeys(
        ("multiplayer.line.3marker_forms_line_3p", "multiplayer.line.4marker_line_in_2p"),
        Contradiction(_CROSSED, ours={"pendingDecisionType": None}),
    ),
    "multiplayer.line.2marker_no_line_3p": Contradiction(
        "a turn that is complete is the next player's; RingRift's runner leaves the vector out",
        ours={"currentPlayer": 2, "currentPhase": "ring_placement"},
    ),
    **dict.fromkeys(
        ("recovery.exact_length_option1", "recovery.overlength_option1", "recovery.fallback_reposition"),
        Contradiction(_NO_THRESHOLDS, ours={"gameStatus": "completed"}, unreadable="victoryThreshold"),
    ),
    "recovery.overlength_option2_free": Contradiction("a state says what wins", unreadable="victoryThreshold"),
    "multi_phase.full_sequence_with_territory_hex": Contradiction(_OFF_BOARD, unreadable="7,7,-14", beyond_repair=True),
    "territory.forced_elimination.simple_hexagonal": Contradiction(_OFF_BOARD, unreadable="3,3,0", beyond_repair=True),
    "territory_line.overlong_line.step1.square8": Contradiction(
        "process_line collapses a whole overlength line in Python and in TypeScript's replays, but nothing in its games",
        ours={"markerCount": 0},
    ),
}


def _repaired(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state with what RingRift's deserialiser does without: thresholds, and a second player who has yet to place a ring."""
    config = Config(state["board"]["type"], max(2, len(state["players"])))
    absent = {"ringsInHand": config.spec.rings_per_player, "eliminatedRings": 0, "territorySpaces": 0}
    seats = range(len(state["players"]) + 1, config.players + 1)
    return {
        "victoryThreshold": config.victory_threshold,
        "territoryVictoryThreshold": config.territory_threshold,
        **state,
        "players": [*state["players"], *({"playerNumber": seat, **absent} for seat in seats)],
    }


def _moves(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The vector's move with the chain of captures that goes on from it, where the vector describes one."""
    first = dict(given.get("move") or given["initialMove"])
    if "option" in first:  # the TypeScript name of what records call recoveryOption
        first["recoveryOption"] = first.pop("option")
    segments = [
        {"from": segment["from"], "captureTarget": segment["captureTarget"], "to": segment["landing"]}
        for segment in given.get("expectedChainSequence", ())[1:]
    ]
    transitions = {transition["phaseAfter"]: transition for transition in given.get("phaseTransitions", ())}
    if transitions:
        target = transitions["chain_capture"]["availableChainTarget"]
        landing = transitions["line_processing"]["expectedLandingPosition"]
        segments.append({"from": first["to"], "captureTarget": target, "to": landing})
    return [first, *({"type": "continue_capture_segment", "player": first["player"], **segment} for segment in segments)]


@dataclass
class Played:
    """A vector that was played: faults, phases and heights of the moving stack after every move of the vector."""

    faults: list[Fault] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    measures: dict[str, Any] = field(default_factory=dict)


def _play_vector(config: Config, position: Position, vector: Mapping[str, Any]) -> Played:
    """Play the vector's moves and the bookkeeping that a host adds, and measure what assertions are about."""
    moves = _moves(vector["input"])
    before = position.copy()
    played = Played(phases=[Phase(int(position.phase))])
    for move in moves:
        played.faults.append(_play_move(config, position, move))
        played.phases.append(Phase(int(position.phase)))
        played.heights.append(int(position.height[position.last_to]))
    measures = _capture_measures(config, position, before, moves)
    if vector["expectedOutput"]["status"] == "complete":
        played.phases += _record_bookkeeping(config, position)
    played.measures = measures | _measures(config, position, before)
    return played


def _play_move(config: Config, position: Position, move: Mapping[str, Any]) -> Fault:
    packed = pack([move], coordinates(config.board))
    tables = topology(config.board)
    found = Fault(fault(tables, position, packed.rows[0], packed.cells))
    play(tables, position, packed.rows[0], packed.cells)
    return found


def _record_bookkeeping(config: Config, position: Position) -> list[Phase]:
    """Record that there is nothing to process for as long as that is legal; returns the phases entered."""
    phases: list[Phase] = []
    while position.status == ACTIVE and (kind := BOOKKEEPING.get(Phase(int(position.phase)))):
        move = {"type": kind, "player": int(position.player), "to": {"x": 0, "y": 0}}
        if _play_move(config, position.copy(), move) is not Fault.NONE:
            break
        _play_move(config, position, move)
        phases.append(Phase(int(position.phase)))
    return phases


def _progress(position: Position) -> int:
    return int((position.marker != 0).sum() + (position.collapsed != 0).sum() + position.eliminated.sum())


def _capture_measures(config: Config, position: Position, before: Position, moves: list[dict[str, Any]]) -> dict[str, Any]:
    """What a chain of captures, or a recovery, did by itself."""
    at = coordinates(config.board)
    captures = [at.cell_of[move["captureTarget"]["x"], move["captureTarget"]["y"]] for move in moves if "captureTarget" in move]
    mover = moves[0]["player"]
    return {
        "totalCapturesInChain": len(captures),
        "finalStackHeight": int(position.height[position.last_to]),
        "finalStackController": int(position.owner[position.last_to]),
        "finalStackPosition": at.key_of[position.last_to],
        "targetStacksRemaining": int((position.height[captures] > 0).sum()),
        "markersCreated": int((position.marker != 0).sum() - (before.marker != 0).sum()),
        "markerPositions": sorted(at.key_of[cell] for cell in position.marker.nonzero()[0]),
        "extractionCount": int(position.eliminated[mover] - before.eliminated[mover]),
        "noLineCollapse": bool((position.collapsed == before.collapsed).all()),
    }


def _measures(config: Config, position: Position, before: Position) -> dict[str, Any]:
    phase = Phase(int(position.phase))
    winner = int(position.winner) or None
    deciding = position.status == ACTIVE and phase not in (Phase.RING_PLACEMENT, Phase.MOVEMENT)
    line = phase is Phase.LINE_PROCESSING and has_line_move(topology(config.board), position, position.player)
    territory = winner is not None and (position.collapsed == winner).sum() >= position.territory_minimum
    measures = {
        "status": "awaiting_decision" if deciding else "complete",
        "currentPlayer": int(position.player),
        "currentPhase": phase.name.lower(),
        "gameStatus": STATUSES[position.status],
        "victoryWinner": winner,
        "victoryReason": "territory_control" if territory else None,
        "pendingDecisionType": "select_line_to_process" if line else None,
        "stackCount": int((position.height != 0).sum()),
        "markerCount": int((position.marker != 0).sum()),
        "collapsedCount": int((position.collapsed != 0).sum()),
        "sInvariantDelta": _progress(position) - _progress(before),
    }
    for seat in (1, 2):
        measures[f"player{seat}RingsInHand"] = int(position.hand[seat])
        measures[f"player{seat}EliminatedRings"] = int(position.eliminated[seat])
        measures[f"player{seat}TerritorySpaces"] = int(position.territory[seat])
    return measures


def _expected(vector: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Everything that the vector says about the outcome, by measure."""
    output = vector["expectedOutput"]
    expected = {"status": output["status"], **output["assertions"]}
    at = coordinates(config.board)
    if (final := output.get("finalState")) is not None:
        expected["finalStackPosition"] = at.key_of[at.cell_of[final["finalStackPosition"]["x"], final["finalStackPosition"]["y"]]]
        expected["markerPositions"] = sorted(at.key_of[at.cell_of[cell["x"], cell["y"]]] for cell in final["markerPositions"])
    return expected


def test_all_vectors_are_here() -> None:
    assert len(VECTORS) == 92
    assert CONTRADICTIONS.keys() <= VECTORS.keys()
    assert {vector["input"]["state"]["board"]["type"] for vector in VECTORS.values()} == set(BOARDS)


@pytest.mark.parametrize("name", VECTORS)
def test_a_vector_is_met_except_where_it_contradicts_the_rules(name: str) -> None:
    vector = VECTORS[name]
    contradiction = CONTRADICTIONS.get(name, Contradiction(""))
    state = vector["input"]["state"]
    if contradiction.unreadable is not None:
        with pytest.raises(UnreadableState, match=contradiction.unreadable):
            read_serialized_state(state)
        state = _repaired(state)
        if contradiction.beyond_repair:
            with pytest.raises(UnreadableState, match=contradiction.unreadable):
                read_serialized_state(state)
            return
    config, position = read_serialized_state(state)
    played = _play_vector(config, position, vector)
    assert played.faults == list(contradiction.faults or [Fault.NONE] * len(played.faults))

    expected = _expected(vector, config)
    differences = {key: played.measures[key] for key, value in expected.items() if played.measures[key] != value}
    assert differences == contradiction.ours
    chain = vector["input"].get("expectedChainSequence", ())
    assert played.heights[: len(chain)] == [segment["attackerHeightAfter"] for segment in chain]
    for phase in vector["input"].get("expectedPhaseSequence", ()):
        assert Phase[phase.upper()] in played.phases
