"""From a policy to people and back: sampling, suggestions, conversations, rounds."""
