"""Replacements for the parts of a loaded model that make inference faster; they can be neither trained nor saved."""
