"""Writing with a model and reading with it: sampling, generation, scores."""
