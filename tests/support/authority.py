"""A certificate authority for tests, and what it issues."""

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pagewire_runtime.tls import Tls

HOUR = datetime.timedelta(hours=1)


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(_pem(self._certificate(self._name, self._key, None, HOUR)))

    def issue(self, *names: str, ends_in: datetime.timedelta = HOUR) -> Tls:
        """Files with a certificate of these DNS names; the first names the files too."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
        alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        stem = self._folder / f"{self.file.stem}-{'-'.join(names)}"
        cert_file, key_file = stem.with_suffix(".crt"), stem.with_suffix(".key")
        cert_file.write_bytes(_pem(self._certificate(subject, key, alternatives, ends_in)))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return Tls(cert_file, key_file, self.file)

    def _certificate(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        alternatives: x509.SubjectAlternativeName | None,
        ends_in: datetime.timedelta,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * HOUR)
            .not_valid_after(now + ends_in)
            .add_extension(x509.BasicConstraints(alternatives is None, None), critical=True)
        )
        if alternatives is not None:
            builder = builder.add_extension(alternatives, critical=False)
        return builder.sign(self._key, hashes.SHA256())


def replace(there: Tls, by: Tls) -> None:
    """Puts other content in the place of the three files, one after another, as people do."""
    pairs = (
        (by.ca_file, there.ca_file),
        (by.cert_file, there.cert_file),
        (by.key_file, there.key_file),
    )
    for source, target in pairs:
        fresh = target.with_name(f"{target.name}.new")
        fresh.write_bytes(source.read_bytes())
        fresh.replace(target)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
