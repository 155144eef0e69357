"""From a file that came back to votes: cells, samples, and a count of what became of every row."""
