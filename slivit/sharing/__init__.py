"""Models for other people: written so that they can be trusted, and opened without trusting anybody."""
