"""What is predicted: its kinds, encoding, loss, and the calls that are made of probabilities. Imports no model."""

from slivit.targets import kinds, segmentation

__all__ = ["kinds", "segmentation"]
