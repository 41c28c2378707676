"""Running code that a model wrote, against tests: one process at a time, without network, processes or time.

Linux only. The code runs in the process that runs its tests, so code that is written to fool its own tests
can; what it cannot do is reach the network, another process, the results, or anything after its time is up.
"""
