"""RingRift itself: boards, positions, moves, rules, replay, fingerprints and the game database.

What a game *is* belongs here. Whether a game may be trained on (`canonical`) or how it is encoded (`datasets`) does not.
"""
