"""The one exception of this package."""


class ImageError(RuntimeError):
    """An image could not be built or kept; the message says why and what to do."""
