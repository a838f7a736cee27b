"""What attacks and training do to a policy: the suite's cases, how answers are scored, what comes out."""
