"""Losses of self-supervised methods, one a file, and the targets that a teacher gives."""
