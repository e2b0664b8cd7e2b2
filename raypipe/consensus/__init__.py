"""From chains to consensus and preference pairs (paper §4)."""
