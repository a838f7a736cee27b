"""Figures about the work: progress, pace, agreement, gold accuracy, win rates. Numbers, no pages."""
