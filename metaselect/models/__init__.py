"""Models by name (own, torchvision's, a user's factory), batches, predictions and named parameters."""
