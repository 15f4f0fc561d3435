"""The reference trainer: training sets as minibatches, a small network, and checkpoints that `models.checkpoints` reads.

Playing with what it makes is for `models.playing`. Only `network`, `trainer` and `models.playing` need torch, and none of them is
imported here.
"""
