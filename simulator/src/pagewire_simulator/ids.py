"""Ids shaped like Meta's, drawn from seeded streams."""

from base64 import urlsafe_b64encode
from random import Random


class Ids:
    """A stream of ids: the same seed, stream and order of calls give the same ids.

    Shapes: PSIDs have 16 digits and app-scoped ids 17, Instagram accounts begin with 17841,
    Messenger messages with ``m_`` and Instagram ones with ``aWdf``.
    """

    def __init__(self, seed: int, stream: str) -> None:
        self._random = Random(f"{seed}/{stream}")

    def page(self) -> str:
        return self._digits("10", 13)

    def instagram_account(self) -> str:
        return self._digits("17841", 12)

    def psid(self) -> str:
        return self._digits("7", 15)

    def igsid(self) -> str:
        return self._digits("6", 15)

    def app_scoped(self) -> str:
        return self._digits("12", 15)

    def post(self) -> str:
        """The second half of a Page's post id."""
        return self._digits("90", 13)

    def comment(self) -> str:
        """The second half of a Facebook comment id."""
        return self._digits("80", 13)

    def media(self) -> str:
        return self._digits("180", 14)

    def instagram_comment(self) -> str:
        return self._digits("179", 14)

    def label(self) -> str:
        return self._digits("24", 14)

    def challenge(self) -> str:
        return self._digits("1", 9)

    def messenger_thread(self) -> str:
        return self._digits("t_5", 14)

    def instagram_thread(self) -> str:
        return "aWdf" + self._base64(72)

    def messenger_mid(self) -> str:
        return "m_" + self._base64(66)

    def instagram_mid(self) -> str:
        return "aWdf" + self._base64(120)

    def token(self) -> str:
        return "EAA" + self._base64(90).replace("-", "x").replace("_", "y")

    def signature(self) -> str:
        """Of an address that holds for a while."""
        return self._random.randbytes(16).hex()

    def trace(self) -> str:
        return "A" + self._base64(15)

    def _digits(self, prefix: str, count: int) -> str:
        return f"{prefix}{self._random.randrange(10**count):0{count}d}"

    def _base64(self, size: int) -> str:
        return urlsafe_b64encode(self._random.randbytes(size)).rstrip(b"=").decode()
