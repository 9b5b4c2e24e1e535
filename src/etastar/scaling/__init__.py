"""Room 6: power laws of η* and λ1 in width and depth, their intervals, and held-out prediction."""
