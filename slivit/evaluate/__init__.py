"""Predictions against answers: measured, called, compared, by scan, subgroup, site and reader."""
