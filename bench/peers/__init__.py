"""What the figures stand beside: the limits, and what a user would have picked instead."""
