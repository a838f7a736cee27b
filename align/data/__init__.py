"""From files to batches: formats, records, sides, token ids; all kept on disk."""
