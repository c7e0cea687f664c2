"""Scans and tables: readers, manifests, splits, preprocessing, the cache, and fastai blocks."""
