"""What labels that were not bought yet would bring: hypotheses, simulated purchases, forecasts."""
