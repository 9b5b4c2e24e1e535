"""Room 2: what is trained. Networks, losses, trials, and the order in which data come."""
