"""What a reward model or a policy is worth on held-out records."""
