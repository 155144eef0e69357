"""Fast sample re-weighting (FSR): the method, its dictionary, its scores, its closed-form virtual step."""
