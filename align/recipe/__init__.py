"""The recipe: one typed file that describes base, data and the three stages. Without torch."""
