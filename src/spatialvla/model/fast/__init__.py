"""Faster parts for inference, in place of a loaded model's own; they can be neither trained nor saved."""
