"""What can go wrong with memory of another process."""

from antiphon.config.errors import AntiphonError


class MappingError(AntiphonError):
    """Memory cannot be shared, or that of another process cannot be mapped. Hidden
    states then go another way."""
