"""The stage `select`: the choice, its features, what a round is to buy, explanations."""
