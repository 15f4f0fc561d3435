"""RingRift's training data plane: self-play databases in, gated training sets and replicas out.

The domain packages (`games`, `canonical`, `datasets`) know nothing of Dagster; `defs` is the face they show in its UI and
`cli` the one they show at a prompt. Imports point down: `games` < `canonical` < `datasets` < `defs` and `cli`.
"""
