"""Models by name: our own, torchvision's, or anybody's factory; all plain ``nn.Module``s."""
