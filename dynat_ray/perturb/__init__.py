"""Perturbations: the threat's geometry, signals of fragility, per-sample budgets, the engine."""
