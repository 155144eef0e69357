"""The stage `select`: the plan of a round, the choice, discarding a round."""
