"""The files of promoted models: their names, the set that is switched as one, and the names in a RingRift tree.

Here: writing, reading and checking these files, RingRift's own records of promotions, and signatures. Which model is promoted, and
bringing files to hosts, is decided and done elsewhere.
"""
