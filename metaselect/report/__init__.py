"""What a run came to, in the forms that other programs read and people look at. No torch."""
