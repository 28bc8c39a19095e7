"""Mutual TLS between services, from three files that may be replaced while the process runs.

The DNS names in a certificate are the roles of its holder.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

from pagewire_runtime.errors import SettingsError
from pagewire_runtime.logs import get_logger

log = get_logger(__name__)


@dataclass(frozen=True)
class Material:
    """What the three files held at one time, as PEM."""

    certificate: bytes
    key: bytes
    authority: bytes

    def channel_credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(
            root_certificates=self.authority,
            private_key=self.key,
            certificate_chain=self.certificate,
        )

    def server_configuration(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(self.key, self.certificate)], root_certificates=self.authority
        )


@dataclass(frozen=True)
class Tls:
    """This process's certificate and key, and the authority that signed everybody's (PEM files)."""

    cert_file: Path
    key_file: Path
    ca_file: Path

    def read(self) -> Material:
        """What the files hold. Raises SettingsError where that can't be used together."""
        try:
            checked = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            checked.load_cert_chain(self.cert_file, self.key_file, password="")  # or it would ask
            checked.load_verify_locations(self.ca_file)
            return Material(
                self.cert_file.read_bytes(), self.key_file.read_bytes(), self.ca_file.read_bytes()
            )
        except OSError as error:
            raise SettingsError(
                "TLS_CERT_FILE, TLS_KEY_FILE, TLS_CA_FILE: must be a certificate, its own key and"
                f" the authority, as PEM: {error.strerror or error}"
            ) from None

    def stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Differs once one of the files was written or replaced."""
        return tuple(map(_stamp, (self.cert_file, self.key_file, self.ca_file)))

    def server_credentials(self) -> grpc.ServerCredentials:
        """For a server whose each new connection gets what the files hold by then."""
        files = Files(self)

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            material = files.renewed()
            return None if material is None else material.server_configuration()

        return grpc.dynamic_ssl_server_credentials(
            files.current.server_configuration(),
            renewed,  # type: ignore[arg-type]  # None is "no change", which its stub does not know
            require_client_authentication=True,
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """For a channel that lives no longer than what the files hold now."""
        return self.read().channel_credentials()


class Files:
    """What the files of a Tls held when they were last sound."""

    def __init__(self, tls: Tls) -> None:
        """Raises SettingsError where they are not."""
        self._tls = tls
        self._stamp = tls.stamp()
        self._refused: object = None
        self.current = tls.read()

    def renewed(self) -> Material | None:
        """The new content, once; None while there is none, or it is not sound (yet).

        Who replaces three files does so one after another, so for a moment they do not belong
        together: until they do, what was there before stays.
        """
        stamp = self._tls.stamp()
        if stamp == self._stamp:
            return None
        try:
            material = self._tls.read()
        except SettingsError as error:
            if stamp != self._refused:
                log.warning("certificates_not_taken", why=str(error))
            self._refused = stamp
            return None
        if self._tls.stamp() != stamp:  # replaced while it was read
            return None
        self._stamp, self.current = stamp, material
        log.info("certificates_renewed")
        return material


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def peer_names(auth_context: Mapping[str, Iterable[bytes]]) -> list[str]:
    """The names in the certificate that the peer showed; none where it showed none."""
    return [name.decode() for name in auth_context.get("x509_subject_alternative_name", ())]
