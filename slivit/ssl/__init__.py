"""Self-supervised pre-training: views, losses and heads, one idea a file."""
