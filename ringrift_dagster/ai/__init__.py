"""RingRift's AIs: which there are, what each can do, what recorded games say about who played them.

The registry, the ladders, engine modes and findings belong here, and policies that play by the rules of `games`. Whether a game is
canonical is decided in `canonical` and does not depend on who played it.
"""
