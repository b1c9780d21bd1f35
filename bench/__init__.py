"""How fast kstack is, beside its peers in the same run: `python -m bench`, or `make bench`.

It times the machine and its peers on one host, one after the other; it is no test and fails nothing.
Each guest program runs with two counts of iterations, and the difference is what an iteration takes.
"""
