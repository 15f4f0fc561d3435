/**
 * Ask RingRift's own TypeScript engine what is legal, so that our rules can be compared with it.
 *
 * Needs a checkout of RingRift with its Node packages (`npm ci --ignore-scripts`); only its `src/shared/engine` is used. It is
 * bundled once per run with the checkout's esbuild. How a move is applied is what RingRift's parity check does
 * (`scripts/selfplay-db-ts-replay.ts`): recorded moves only, nothing bridged, victory and last-player-standing looked at after
 * every move.
 *
 *   node oracle.mjs --ringrift PATH legal < games.jsonl     the legal moves before each move of recorded games
 *   node oracle.mjs --ringrift PATH play --games 20         seeded random games, in the form that `legal` reads, with positions
 *   node oracle.mjs --ringrift PATH perft --config square8_2p --depth 3 [--divide]   leaf counts
 *
 * README.md beside this file describes input, output and the normalisation of RingRift's list.
 */

import fs from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import readline from 'node:readline';
import { parseArgs } from 'node:util';

const CONFIGS = ['square8', 'square19', 'hex8', 'hexagonal'].flatMap((board) =>
  [2, 3, 4].map((players) => `${board}_${players}p`)
);

const ENGINE_EXPORTS = {
  'orchestration/turnOrchestrator': ['getValidMoves', 'processTurn'],
  'legacy/legacyMoveTypes': ['normalizeLegacyMove'],
  'aggregates/PlacementAggregate': ['validatePlacementOnBoard'],
  'aggregates/LineAggregate': ['enumerateChooseLineRewardMoves', 'findLinesForPlayer'],
  'aggregates/RecoveryAggregate': ['enumerateExpandedRecoverySlideTargets'],
  'aggregates/TerritoryAggregate': ['enumerateTerritoryEliminationMoves'],
  'aggregates/VictoryAggregate': ['evaluateVictory'],
  'contracts/serialization': ['deserializeGameState'],
  core: ['computeRingEliminationVictoryThreshold', 'countRingsOnBoardForPlayer', 'hashGameStateSHA256'],
  lpsTracking: ['createLpsTrackingState', 'evaluateLpsVictory', 'updateLpsTracking'],
  playerStateHelpers: ['hasAnyRealAction', 'playerHasMaterial'],
  rulesConfig: ['getEffectiveLineLengthThreshold'],
  swapSidesHelpers: ['shouldOfferSwapSides'],
  turnDelegateHelpers: ['hasAnyCaptureForPlayer', 'hasAnyMovementForPlayer', 'hasAnyPlacementForPlayer'],
  '../types/game': ['BOARD_CONFIGS'],
};

let engine;

/** Bundle the engine of the checkout into a temporary file and import it. */
async function loadEngine(checkout, asIs) {
  const esbuild = createRequire(path.join(checkout, 'package.json'))('esbuild');
  const root = path.join(checkout, 'src/shared/engine');
  const contents = Object.entries(ENGINE_EXPORTS)
    .map(([module, names]) => `export { ${names.join(', ')} } from './${module}';`)
    .join('\n');
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'ringrift-oracle-'));
  try {
    const outfile = path.join(folder, 'engine.mjs');
    await esbuild.build({
      stdin: { contents, resolveDir: root, loader: 'ts' },
      outfile,
      bundle: true,
      format: 'esm',
      platform: 'node',
      tsconfig: path.join(checkout, 'tsconfig.json'),
      logLevel: 'error',
    });
    engine = await import(outfile);
    // R120: three markers make a line on hex8 with three or four players. The engine's rules table says so, but its line search
    // starts from the board's own number, which is 3 for square8 and, by mistake, 4 for hex8. Other tests of length remain.
    if (!asIs) engine.BOARD_CONFIGS.hex8.lineLength = 3;
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
}

// ── Cells ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

const cellTables = new Map();

/** "x,y" to cell index, in the order of `ringrift_dagster.games.geometry.coordinates`. */
function cellsOf(board) {
  if (!cellTables.has(board)) {
    const { size } = engine.BOARD_CONFIGS[board];
    const hexagonal = board.startsWith('hex');
    const radius = (size - 1) / 2;
    const low = hexagonal ? -radius : 0;
    const table = new Map();
    for (let x = low; x < low + size; x += 1) {
      for (let y = low; y < low + size; y += 1) {
        if (!hexagonal || Math.abs(x + y) <= radius) table.set(`${x},${y}`, table.size);
      }
    }
    cellTables.set(board, table);
  }
  return cellTables.get(board);
}

const byNumber = (a, b) => a - b;

/** A move as a compact array: its type and the fields that make it the move it is (README.md). */
function encode(move, table) {
  const cell = (position) => table.get(`${position.x},${position.y}`);
  const cells = (positions) => positions.map(cell).sort(byNumber);
  switch (move.type) {
    case 'place_ring':
      return [move.type, cell(move.to), move.placementCount ?? 1];
    case 'move_stack':
      return [move.type, cell(move.from), cell(move.to)];
    case 'overtaking_capture':
    case 'continue_capture_segment':
      return [move.type, cell(move.from), cell(move.captureTarget), cell(move.to)];
    case 'recovery_slide': {
      const option = move.recoveryOption ?? move.option ?? null;
      return [
        move.type,
        move.recoveryMode ?? 'line',
        cell(move.from),
        cell(move.to),
        option,
        option === 2 ? cells(move.collapsePositions) : [],
      ];
    }
    case 'process_line':
      return [move.type, cells(move.formedLines[0].positions)];
    case 'choose_line_option':
      return [move.type, cells(move.formedLines[0].positions), cells(move.collapsedMarkers)];
    case 'eliminate_rings_from_stack':
      return [move.type, cell(move.to), move.eliminationContext];
    case 'choose_territory_option':
      return [move.type, cells(move.disconnectedRegions[0].spaces)];
    case 'forced_elimination':
      return [move.type, cell(move.to)];
    default:
      return [move.type];
  }
}

// ── Games ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

function parseConfig(key) {
  if (!CONFIGS.includes(key)) throw new Error(`no config: ${key}`);
  const [board, players] = key.split('_');
  return { board, players: Number.parseInt(players, 10) };
}

/** The state that RingRift's recorded games start from, as its own replay reads it back. */
function initialState(key, swapRule) {
  const { board, players } = parseConfig(key);
  const spec = engine.BOARD_CONFIGS[board];
  const seats = Array.from({ length: players }, (_, seat) => ({
    id: `p${seat + 1}`,
    username: `AI ${seat + 1}`,
    type: 'ai',
    playerNumber: seat + 1,
    isReady: true,
    timeRemaining: 600,
    ringsInHand: spec.ringsPerPlayer,
    eliminatedRings: 0,
    territorySpaces: 0,
  }));
  const state = engine.deserializeGameState({
    gameId: 'self-play',
    board: { type: board, size: spec.size, stacks: {}, markers: {}, collapsedSpaces: {}, eliminatedRings: {}, formedLines: [] },
    players: seats,
    currentPlayer: 1,
    currentPhase: 'ring_placement',
    moveHistory: [],
    gameStatus: 'active',
    totalRingsEliminated: 0,
    victoryThreshold: engine.computeRingEliminationVictoryThreshold(spec.ringsPerPlayer, players),
    territoryVictoryThreshold: Math.floor(spec.totalSpaces / 2) + 1,
    ...(players === 2 ? { rulesOptions: { swapRuleEnabled: swapRule } } : {}),
  });
  return { state, lps: engine.createLpsTrackingState(), players, coerced: false };
}

const BARE = new Set(['no_placement_action', 'no_movement_action', 'no_line_action', 'no_territory_action']);
const REPLAY = {
  breakOnDecisionRequired: true,
  replayCompatibility: true,
  skipSingleTerritoryAutoProcess: true,
  skipAutoLineProcessing: true,
};
const NO_ACTION = new Set([...BARE, 'skip_placement', 'skip_territory_processing', 'skip_capture', 'skip_recovery']);

/** A recorded move as the engine takes it. */
function readMove(record, number, board, players) {
  const move = { id: `db-${number}`, thinkTime: 0, moveNumber: number, ...record, timestamp: new Date(0) };
  if (BARE.has(move.type) || move.to === undefined) move.to = { x: 0, y: 0 };
  if (BARE.has(move.type)) delete move.from;
  if (move.type === 'process_line') {
    // RingRift's replay reads a process_line of a line longer than required as "collapse all of it".
    const line = move.formedLines?.[0];
    const length = line?.length ?? line?.positions.length ?? 0;
    if (length > engine.getEffectiveLineLengthThreshold(board, players)) {
      return { ...move, type: 'choose_line_option', collapsedMarkers: undefined };
    }
  }
  return engine.normalizeLegacyMove(move);
}

/** The game after one more move; the game before stays as it was. */
function play(game, record) {
  const before = game.state;
  const move = readMove(record, before.moveHistory.length + 1, before.board.type, game.players);
  const options = { ...REPLAY, turnSequenceRealMoves: NO_ACTION.has(move.type) ? [] : [move] };
  const { nextState } = engine.processTurn(before, move, options);
  let state = { ...nextState, moveHistory: [...nextState.moveHistory, move] };
  const verdict = engine.evaluateVictory(state);
  const finish = (winner) => ({ ...state, gameStatus: 'completed', currentPhase: 'game_over', winner, currentPlayer: winner });
  if (state.gameStatus === 'active' && verdict.isGameOver && verdict.winner !== undefined) state = finish(verdict.winner);
  if (state.gameStatus === 'completed' && state.winner === undefined) state = { ...state, winner: verdict.winner };
  let { lps } = game;
  if (state.gameStatus === 'active' && state.currentPhase === 'ring_placement' && before.currentPhase !== 'ring_placement') {
    lps = { ...lps, currentRoundActorMask: new Map(lps.currentRoundActorMask) };
    const turn = (seat) => {
      const mustMove = seat === state.currentPlayer ? state.mustMoveFromStackKey : undefined;
      return { hasPlacedThisTurn: Boolean(mustMove), mustMoveFromStackKey: mustMove };
    };
    const delegates = {
      hasPlacement: (seat) => engine.hasAnyPlacementForPlayer(state, seat),
      hasMovement: (seat) => engine.hasAnyMovementForPlayer(state, seat, turn(seat)),
      hasCapture: (seat) => engine.hasAnyCaptureForPlayer(state, seat, turn(seat)),
    };
    const hasRealAction = (seat) => engine.hasAnyRealAction(state, seat, delegates);
    const hasMaterial = (seat) => engine.playerHasMaterial(state, seat);
    engine.updateLpsTracking(lps, {
      currentPlayer: state.currentPlayer,
      activePlayers: state.players.map((player) => player.playerNumber).filter(hasMaterial),
      hasRealAction: hasRealAction(state.currentPlayer),
    });
    const last = engine.evaluateLpsVictory({ gameState: state, lps, hasAnyRealAction: hasRealAction, hasMaterial });
    if (last.isVictory && last.winner !== undefined) state = finish(last.winner);
  }
  return { ...game, state, lps };
}

// ── Legal moves ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

function recoveredThisTurn(state) {
  for (let i = state.moveHistory.length - 1; i >= 0; i -= 1) {
    const move = state.moveHistory[i];
    if (move.player !== state.currentPlayer) return false;
    if (move.type === 'recovery_slide') return true;
  }
  return false;
}

/** Placements with their counts: RingRift's list has each cell once, and asks for one ring only. */
function placements(state) {
  const { board, currentPlayer: player } = state;
  const { ringsInHand } = state.players.find((seat) => seat.playerNumber === player);
  const ringsPerPlayerCap = engine.BOARD_CONFIGS[board.type].ringsPerPlayer;
  const ringsOnBoard = engine.countRingsOnBoardForPlayer(board, player);
  const context = {
    boardType: board.type,
    player,
    ringsInHand,
    ringsPerPlayerCap,
    ringsOnBoard,
    maxAvailableGlobal: Math.min(ringsPerPlayerCap - ringsOnBoard, ringsInHand),
  };
  const moves = [];
  for (const key of cellsOf(board.type).keys()) {
    const [x, y] = key.split(',').map(Number);
    const to = board.type.startsWith('hex') ? { x, y, z: -x - y } : { x, y };
    for (let count = 1; count <= 3; count += 1) {
      if (engine.validatePlacementOnBoard(board, to, count, context).valid) {
        moves.push({ type: 'place_ring', player, to, placementCount: count });
      }
    }
  }
  return moves;
}

/** Moves for every line: RingRift's server lists these beside the engine's process_line. */
function lineOptions(state) {
  const fresh = { ...state, board: { ...state.board, formedLines: [] } };
  const lines = engine.findLinesForPlayer(fresh.board, state.currentPlayer);
  return lines.flatMap((_, index) => engine.enumerateChooseLineRewardMoves(fresh, state.currentPlayer, index));
}

/** The list a host of the engine has to offer (README.md says what is changed of the engine's own). */
function legalMoves(state) {
  if (state.gameStatus !== 'active') return [];
  const player = state.currentPlayer;
  let moves = engine.getValidMoves(state);
  if (state.currentPhase === 'ring_placement') {
    const placed = placements(state);
    moves = moves.filter((move) => move.type !== 'place_ring');
    if (placed.length > 0) moves = moves.filter((move) => move.type !== 'no_placement_action');
    moves = [...placed, ...moves];
    if (engine.shouldOfferSwapSides(state)) moves.push({ type: 'swap_sides', player });
  } else if (state.currentPhase === 'line_processing') {
    if (!state.pendingLineRewardElimination) moves = [...moves, ...lineOptions(state)];
    if (moves.length === 0) moves = [{ type: 'no_line_action', player }];
  } else if (state.currentPhase === 'territory_processing') {
    if (state.moveHistory.at(-1)?.type === 'choose_territory_option' && recoveredThisTurn(state)) {
      moves = engine.enumerateTerritoryEliminationMoves(state, player, { eliminationContext: 'recovery' });
    }
    if (moves.length === 0) moves = [{ type: 'no_territory_action', player }];
  }
  return moves;
}

/** Encoded and sorted by their JSON text, without repetitions; `moves` are one of each, in that order. */
function legalList(state) {
  const table = cellsOf(state.board.type);
  const byText = new Map();
  for (const move of legalMoves(state)) {
    const text = JSON.stringify(encode(move, table));
    if (!byText.has(text)) byText.set(text, move);
  }
  const texts = [...byText.keys()].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
  return { texts, moves: texts.map((text) => byText.get(text)) };
}

function describe(state, texts) {
  const head = {
    hash: engine.hashGameStateSHA256(state),
    player: state.currentPlayer,
    phase: state.currentPhase,
    status: state.gameStatus,
    winner: state.winner ?? null,
  };
  return `${JSON.stringify(head).slice(0, -1)},"legal":[${texts.join(',')}]}`;
}

// ── legal ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

const withoutNull = (_, value) => (value === null ? undefined : value);

function answerGame(text) {
  const { id, config, swap_rule: swapRule, moves } = JSON.parse(text, withoutNull);
  let game = initialState(config, Boolean(swapRule));
  const positions = [describe(game.state, legalList(game.state).texts)];
  let error;
  coercions = 0;
  for (const [index, move] of moves.entries()) {
    try {
      game = play(game, move);
    } catch (problem) {
      error = `move ${index}: ${problem.message}`;
      break;
    }
    positions.push(describe(game.state, legalList(game.state).texts));
  }
  const head = { id, config, ...(error ? { error } : {}), ...(coercions ? { coercions } : {}) };
  return `${JSON.stringify(head).slice(0, -1)},"positions":[${positions.join(',')}]}`;
}

// ── play ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** mulberry32: a small deterministic generator of numbers in [0, 1). */
function generator(seed) {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = a;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** By style: weights of move types (1 when not named) and of single moves of a type. Every seat of a game draws its own style. */
const STYLES = {
  flat: { types: null },
  typed: { types: {} },
  capture: { types: { overtaking_capture: 20, continue_capture_segment: 20, skip_capture: 0.1, skip_placement: 3 } },
  mover: {
    types: { move_stack: 10, skip_placement: 8, skip_capture: 5, overtaking_capture: 0.3 },
    move: (move) => (move.type === 'place_ring' ? 1 / move.placementCount ** 2 : 1),
  },
  hurry: {
    types: { place_ring: 20, skip_placement: 0.05, swap_sides: 1 },
    move: (move) => (move.type === 'place_ring' ? move.placementCount ** 4 : 1),
  },
  waste: {
    types: { move_stack: 4, place_ring: 3, skip_recovery: 0.2, overtaking_capture: 0.5 },
    move: (move, state) => {
      if (move.type === 'place_ring') return state.board.stacks.has(keyOf(move.to)) ? 0.2 : 1;
      return move.to && state.board.markers.has(keyOf(move.to)) ? 30 : 1;
    },
  },
  short: {
    types: { skip_capture: 3, skip_placement: 2, skip_territory_processing: 0.2 },
    move: (move) => (move.type === 'move_stack' ? 1 / distance(move.from, move.to) ** 3 : 1),
  },
};
const STYLE_NAMES = Object.keys(STYLES);

const keyOf = (position) => (position.z === undefined ? `${position.x},${position.y}` : `${position.x},${position.y},${position.z}`);
const distance = (a, b) => Math.max(Math.abs(a.x - b.x), Math.abs(a.y - b.y));

function drawIndex(weights, random) {
  let rest = random() * weights.reduce((sum, weight) => sum + weight, 0);
  for (let i = 0; i < weights.length; i += 1) {
    rest -= weights[i];
    if (rest < 0) return i;
  }
  return weights.length - 1;
}

function choose(moves, state, style, random) {
  let candidates = moves;
  if (style.types) {
    const types = [...new Set(moves.map((move) => move.type))];
    const type = types[drawIndex(types.map((name) => style.types[name] ?? 1), random)];
    candidates = moves.filter((move) => move.type === type);
  }
  if (!style.move) return candidates[Math.floor(random() * candidates.length)];
  return candidates[drawIndex(candidates.map((move) => style.move(move, state)), random)];
}

const RECORDED = [
  'type', 'player', 'from', 'to', 'captureTarget', 'placementCount', 'formedLines', 'collapsedMarkers', 'disconnectedRegions',
  'recoveryOption', 'recoveryMode', 'collapsePositions', 'extractionStacks', 'eliminationContext',
];

/**
 * A move of the engine's list as RingRift records it, but for the fields that a recorder adds (id, time).
 *
 * The engine's list leaves open which stack a recovery takes its ring from; records name it, and so do ours.
 */
function record(move, state, random = () => 0) {
  const complete = { ...move, recoveryOption: move.recoveryOption ?? move.option, to: move.to ?? { x: 0, y: 0 } };
  if (move.type === 'recovery_slide' && complete.recoveryOption !== 2) {
    const sources = [...state.board.stacks].filter(([, stack]) => stack.rings.slice(1).includes(move.player));
    complete.extractionStacks = [sources[Math.floor(random() * sources.length)][0]];
  }
  const fields = Object.fromEntries(RECORDED.filter((name) => complete[name] !== undefined).map((name) => [name, complete[name]]));
  return { ...fields, moveNumber: state.moveHistory.length + 1, phase: state.currentPhase };
}

function playGame(config, swapRule, seed, maxMoves) {
  const random = generator(seed);
  let game = initialState(config, swapRule);
  const styles = Array.from({ length: game.players }, () => STYLE_NAMES[Math.floor(random() * STYLE_NAMES.length)]);
  const moves = [];
  const positions = [];
  let error;
  for (;;) {
    const { state } = game;
    const legal = legalList(state);
    positions.push(describe(state, legal.texts));
    if (state.gameStatus !== 'active' || moves.length >= maxMoves) break;
    if (legal.moves.length === 0) {
      error = `no legal move in ${state.currentPhase}`;
      break;
    }
    const move = record(choose(legal.moves, state, STYLES[styles[state.currentPlayer - 1]], random), state, random);
    try {
      game = play(game, JSON.parse(JSON.stringify(move)));
    } catch (problem) {
      error = `the engine refuses its own move ${JSON.stringify(move)}: ${problem.message}`;
      break;
    }
    moves.push(move);
  }
  const head = { id: `ts-${config}${swapRule ? '-swap' : ''}-${seed}`, config, swap_rule: swapRule, styles, ...(error ? { error } : {}) };
  return {
    count: positions.length,
    text: `${JSON.stringify(head).slice(0, -1)},"moves":${JSON.stringify(moves)},"positions":[${positions.join(',')}]}`,
  };
}

// ── perft ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Each run of a longer line that a recovery may collapse at no cost: RingRift's list has the first, its validation takes all. */
function allRuns(move, state) {
  const same = (a, b) => a.x === b.x && a.y === b.y;
  const { linePositions: line } = engine
    .enumerateExpandedRecoverySlideTargets(state, move.player)
    .find((target) => target.isOverlength && same(target.from, move.from) && same(target.to, move.to));
  const length = move.collapsePositions.length;
  const starts = Array.from({ length: line.length - length + 1 }, (_, start) => start);
  const runs = starts.map((start) => line.slice(start, start + length));
  return runs.filter((run) => run.some((cell) => same(cell, move.to))).map((run) => ({ ...move, collapsePositions: run }));
}

/** The list with each decision once, as ours has it: no second way to process a line, no line before a debt, every run. */
function decisions(state) {
  const { moves } = legalList(state);
  if (moves.some((move) => move.eliminationContext === 'line')) return moves.filter((move) => move.eliminationContext === 'line');
  const whole = (move) => move.type === 'choose_line_option' && move.collapsedMarkers.length === move.formedLines[0].positions.length;
  const distinct = moves.filter((move) => !whole(move));
  return distinct.flatMap((move) => ((move.recoveryOption ?? move.option) === 2 ? allRuns(move, state) : [move]));
}

function perft(game, depth) {
  if (depth === 0) return 1;
  const moves = decisions(game.state);
  if (depth === 1) return moves.length;
  return moves.reduce((sum, move) => sum + perft(play(game, record(move, game.state)), depth - 1), 0);
}

// ── Command line ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

process.env = { ...process.env }; // the engine reads it all the time, and Node's own object is slow

let coercions = 0;
console.warn = (...text) => {
  coercions += 1;
  if (process.env.ORACLE_VERBOSE) process.stderr.write(`${text.join(' ')}\n`);
};
console.log = (...text) => process.stderr.write(`${text.join(' ')}\n`);

process.stdout.on('error', (problem) => process.exit(problem.code === 'EPIPE' ? 0 : 1));

async function write(text) {
  if (!process.stdout.write(`${text}\n`)) await new Promise((resolve) => process.stdout.once('drain', resolve));
}

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      ringrift: { type: 'string' },
      'as-is': { type: 'boolean', default: false },
      config: { type: 'string', multiple: true },
      games: { type: 'string', default: '1' },
      seed: { type: 'string', default: '1' },
      'max-moves': { type: 'string', default: '5000' },
      'max-positions': { type: 'string', default: '1000000000' },
      'swap-rule': { type: 'boolean', default: false },
      depth: { type: 'string', default: '1' },
      moves: { type: 'string' },
      divide: { type: 'boolean', default: false },
    },
  });
  const [mode] = positionals;
  if (!values.ringrift || !['legal', 'play', 'perft'].includes(mode)) {
    process.stderr.write('usage: oracle.mjs --ringrift PATH legal|play|perft [options]\n');
    process.exitCode = 2;
    return;
  }
  await loadEngine(path.resolve(values.ringrift), values['as-is']);
  const configs = values.config ?? CONFIGS;

  if (mode === 'legal') {
    for await (const line of readline.createInterface({ input: process.stdin })) {
      if (line.trim()) await write(answerGame(line));
    }
  } else if (mode === 'play') {
    // Two-player configs with an odd game number have the swap rule.
    for (const config of configs) {
      let positions = 0;
      for (let i = 0; i < Number(values.games) && positions < Number(values['max-positions']); i += 1) {
        const swapRule = values['swap-rule'] || (config.endsWith('2p') && i % 2 === 1);
        const { count, text } = playGame(config, swapRule, Number(values.seed) + i, Number(values['max-moves']));
        positions += count;
        await write(text);
      }
    }
  } else {
    let game = initialState(configs[0], values['swap-rule']);
    if (values.moves) {
      const file = JSON.parse(fs.readFileSync(values.moves, 'utf8'), withoutNull);
      for (const move of file.moves ?? file) game = play(game, move);
    }
    const depth = Number(values.depth);
    if (values.divide) {
      const table = cellsOf(game.state.board.type);
      for (const move of decisions(game.state)) {
        const leaves = perft(play(game, record(move, game.state)), depth - 1);
        await write(JSON.stringify({ move: encode(move, table), leaves }));
      }
    } else {
      for (let d = 1; d <= depth; d += 1) await write(JSON.stringify({ config: configs[0], depth: d, leaves: perft(game, d) }));
    }
  }
}

await main();
