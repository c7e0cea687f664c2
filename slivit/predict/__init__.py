"""Prediction of many scans: read in parallel, batched as memory allows, and able to go on after a stop."""
