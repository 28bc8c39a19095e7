"""Mutual TLS between services, from three files; a certificate's DNS name is its holder's role."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc


@dataclass(frozen=True)
class Tls:
    """This process's certificate and key, and the authority that signed everybody's (PEM files)."""

    cert_file: Path
    key_file: Path
    ca_file: Path

    def server_credentials(self) -> grpc.ServerCredentials:
        pair = (self.key_file.read_bytes(), self.cert_file.read_bytes())
        return grpc.ssl_server_credentials(
            [pair], root_certificates=self.ca_file.read_bytes(), require_client_auth=True
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(
            root_certificates=self.ca_file.read_bytes(),
            private_key=self.key_file.read_bytes(),
            certificate_chain=self.cert_file.read_bytes(),
        )


def peer_names(auth_context: Mapping[str, Iterable[bytes]]) -> list[str]:
    """The names in the certificate that the peer showed; none where it showed none."""
    return [name.decode() for name in auth_context.get("x509_subject_alternative_name", ())]
