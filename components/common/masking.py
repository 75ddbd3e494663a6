"""Taking out of a text what must not be seen, before it goes into a log, an artifact or a message."""

import re

# A password may hold "/" and "@", so it ends at the last "@"; what follows "name:" is a port when it is a number before a slash.
# Both begin where a word does: tried at each letter of a long text they would take quadratic time.
_USER = re.compile(r"\b(\w+://)(?:[^\s/@'\":]+:(?!\d+/)[^\s'\"]*|[^\s/@'\"]+)@")
_QUERY = re.compile(r"(?<![\w+.-])([\w+.-]+://[^\s?'\"]+)\?[^\s'\"]*")


def mask(text: str) -> str:
    """The text with the user and password of every URL in it replaced by `***`.

    Example:
        >>> mask("postgresql://ann:secret@db/shop")
        'postgresql://***@db/shop'
    """
    return _USER.sub(r"\1***@", text)


def mask_address(address: str) -> str:
    """As `mask`, and without the query of a web address, which may hold a signature.

    Example:
        >>> mask_address("https://host/table.csv?sig=abc")
        'https://host/table.csv'
    """
    return _QUERY.sub(r"\1", mask(address))
