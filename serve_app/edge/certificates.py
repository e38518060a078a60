"""The edge's certificate: a given one, checked before it is used, or a self-signed one made on first start.

Most FunASR clients expect TLS on port 10095 and do not verify who is there, so a self-signed certificate is
what they are used to.
"""

import os
import socket
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from serve_app.edge.errors import EdgeError

_VALID_DAYS = 825
_RENEW_DAYS = 30
"""A self-signed certificate that ends sooner is made anew at the start, so that it lasts for the run."""


def given_bundle(certfile: Path, keyfile: Path | None) -> tuple[bytes, datetime]:
    """Certificate chain and key in one PEM text, as HAProxy wants them, and when the certificate ends.

    Raises:
        EdgeError: a file cannot be read, is not PEM, the key is encrypted, or they do not belong together.
    """
    chain = _read(certfile, "EDGE_CERTFILE")
    key_text = _read(keyfile, "EDGE_KEYFILE") if keyfile else chain
    where = f"EDGE_KEYFILE {keyfile}" if keyfile else f"EDGE_CERTFILE {certfile}"
    try:
        certificate = x509.load_pem_x509_certificates(chain)[0]
    except (ValueError, IndexError) as error:
        raise EdgeError(f"EDGE_CERTFILE {certfile} holds no PEM certificate.") from error
    try:
        key = serialization.load_pem_private_key(key_text, None)
    except TypeError as error:
        raise EdgeError(f"{where} is encrypted. Give a key without a passphrase.") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EdgeError(f"{where} holds no PEM private key that can be read.") from error
    if _public_bytes(key.public_key()) != _public_bytes(certificate.public_key()):
        raise EdgeError(f"The private key in {where} does not belong to EDGE_CERTFILE {certfile}.")
    return chain + (b"\n" + key_text if keyfile else b""), certificate.not_valid_after_utc


def own_bundle(directory: Path, hosts: Iterable[str]) -> bytes:
    """The self-signed certificate of ``directory`` with its key in one PEM text; made if there is none.

    It is made anew when it ends within 30 days, cannot be read, or does not fit its key. The key's file can
    only be read by its owner. ``hosts`` are names and addresses that a new one is for, besides this
    machine's own.

    Raises:
        EdgeError: the directory cannot be written to.
    """
    certificate_file, key_file = directory / "cert.pem", directory / "key.pem"
    try:
        bundle, ends = given_bundle(certificate_file, key_file)
        if ends > datetime.now(UTC) + timedelta(days=_RENEW_DAYS):
            return bundle
    except EdgeError:
        pass  # There is none yet, or it is damaged: either way a new one is what helps.
    certificate, key = _make({"localhost", "127.0.0.1", "::1", socket.gethostname(), *hosts})
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _write(key_file, key)
        _write(certificate_file, certificate)
    except OSError as error:
        raise EdgeError(
            f"The certificate of the edge cannot be kept in {directory}: {error.strerror or error}. Set "
            "DATA_DIR to a directory that can be written to, or give EDGE_CERTFILE and EDGE_KEYFILE."
        ) from error
    return certificate + b"\n" + key


def end_of(bundle: bytes) -> datetime:
    """When the first certificate of a PEM text ends."""
    return x509.load_pem_x509_certificates(bundle)[0].not_valid_after_utc


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except OSError as error:
        raise EdgeError(f"{setting} {path} cannot be read: {error.strerror or error}.") from error


def _write(path: Path, content: bytes) -> None:
    """Put a file that only its owner can read in place of an older one, at once."""
    unfinished = path.with_suffix(f".{os.getpid()}.new")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    unfinished.replace(path)


def _public_bytes(key: object) -> bytes:
    # Every public key has this method; its declared union of types has kinds that no certificate holds.
    encoded = key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return bytes(encoded)


def _make(hosts: set[str]) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "asr-serve")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Clients whose clock is behind shall not refuse it.
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=_VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in sorted(hosts)]), False)
        # A program that is to trust it can be given it as a root.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)
