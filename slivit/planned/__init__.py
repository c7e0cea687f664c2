"""One command from labelled scans to a model that is worth having: a plan, baselines, networks, and their ensemble."""

from slivit.planned.run import auto as auto
