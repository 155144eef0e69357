"""A round's samples on a local page: who is shown what, and the server in front of it. No torch below here."""
