"""The one exception of this package."""


class ClusterError(RuntimeError):
    """The cluster cannot run or did not get ready; the message says what is missing and what to do."""
