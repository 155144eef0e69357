"""The stage `warmup`: a model of the given labels, by gradient descent or solved exactly."""
