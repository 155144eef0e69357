"""The meta gradient: the forward pass of a step, the Jacobian-vector product of its losses, the virtual step."""
