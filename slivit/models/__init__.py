"""Networks, one family a file. Nothing is imported until a model is asked for."""
