"""Between the run and people: exchange formats, votes, rounds and the consensus. No torch below here."""
