"""Which model is promoted: the rules of a decision, the decisions that were taken, and publishing what they say."""
