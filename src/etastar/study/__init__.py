"""Room 7: studies. A study file names cells; a runner computes what a store does not hold yet.

`specification.py` reads the file, `plan.py` says what is left, `runner.py` hands it to one of
`executors/`, `measuring.py` does the work, `store.py` keeps it, `tables.py` gives it back.
"""
