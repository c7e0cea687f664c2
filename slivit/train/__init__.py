"""Training by recipe: from a manifest to measured predictions."""
