"""The stages: each module's `run` tells the story of one command."""
