"""SFT, reward model and PPO from rankings, on one base checkpoint."""

__version__ = "0.1.0"
