"""Training of swap models: what to draw, how to step, when to save. Arrays and tensors only."""
