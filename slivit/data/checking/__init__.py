"""Every scan of a manifest read before training does, and what was found."""
