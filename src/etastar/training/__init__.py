"""Room 3: trains stacks of replicas and says how each trial ended."""
