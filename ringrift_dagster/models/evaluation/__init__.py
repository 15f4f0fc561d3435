"""Evidence about a model's strength and the tests of it: records of games, blocks, and statistics."""
