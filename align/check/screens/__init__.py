"""Screens of records for what somebody may have planted in them; nothing is trained."""
