"""How a run has its images: as an array of pixels, or encoded, to be decoded when they are looked at."""
