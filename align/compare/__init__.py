"""Policies side by side on the same prompts: what `align evaluate` does."""
