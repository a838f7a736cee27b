"""What a recipe needs: memory by role and part, operations and time, and what to change where it is short."""
