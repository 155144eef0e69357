"""The stage `reweight`: training by a method, and whether its result may be trusted."""
