"""SFT and the reward model, and the frame that all three stages share."""
