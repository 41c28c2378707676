"""The operator at run time: API client, reflectors, queue, reconciler. All I/O of the operator is here."""
