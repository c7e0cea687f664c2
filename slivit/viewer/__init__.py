"""A page on this machine to look at scans, predictions and explanations. Needs the extra `view`."""
