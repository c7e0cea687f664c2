"""Self-supervised pre-training: one file a method, each a `Pretext` that an ordinary Learner trains."""

from slivit.ssl.registry import create_pretext, list_pretexts, register_pretext

__all__ = ["create_pretext", "list_pretexts", "register_pretext"]
