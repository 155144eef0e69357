"""The method `auto`: a model of how given labels come from true ones, and training with each sample's posterior."""
