"""The meta gradient: a step's forward pass, the Jacobian-vector product of its losses, the virtual step."""
