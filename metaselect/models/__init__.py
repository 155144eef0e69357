"""Models by name: our own, torchvision's, or anybody's factory; all plain ``nn.Module``s."""

from metaselect.models.build import auto_model, build_model, input_channels, last_linear, parameters_in

__all__ = ["auto_model", "build_model", "input_channels", "last_linear", "parameters_in"]
