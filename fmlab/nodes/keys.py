"""Certificates and keys of a room, good for thirty days.

    class/ca.crt, server.pem, server.key   the link's; the last stays on the instructor's machine
    class/alice.pem                        alice's ticket: the certificate above and a private key of her own

A ticket says who may be a node. Who may start a run on the link is another matter: Flower asks nobody who reaches the
port for a password, which is why a room has nodes that run only their own installed code.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAYS = 30
PEM = serialization.Encoding.PEM


def make_room(folder: Path, host: str, names: Iterable[str]) -> None:
    """What is not there yet. A certificate for another address, or one that has run out, is made anew with all tickets.

    Raises ValueError for a name that is no file's.
    """
    names = list(names)
    for name in names:
        if not re.fullmatch(r"[\w-]+", name) or name in ("ca", "server"):
            raise ValueError(f"names: {name!r} names a file; take letters, digits, _ and -, and not 'ca' or 'server'")
    folder.mkdir(parents=True, exist_ok=True)
    if not _good(folder, host):
        for old in folder.glob("*.pem"):
            old.unlink()
        _certificates(folder, host)
    for name in names:
        path = folder / f"{name}.pem"
        if not path.exists():
            key = ec.generate_private_key(ec.SECP384R1())
            _write(path, (folder / "ca.crt").read_bytes() + _private(key))


def authority(ticket: Path) -> bytes:
    """The certificate in a ticket. Raises ValueError where there is none."""
    return _part(ticket, "CERTIFICATE")


def private_key(ticket: Path) -> bytes:
    return _part(ticket, "PRIVATE KEY")


def public_key(ticket: Path) -> bytes:
    key = serialization.load_pem_private_key(private_key(ticket), None)
    return key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _part(ticket: Path, kind: str) -> bytes:
    if not ticket.is_file():
        raise ValueError(f"{ticket} does not exist; the instructor's machine makes a ticket for each name, in class/")
    found = re.search(rb"-----BEGIN %s-----.*?-----END %s-----\n" % ((kind.encode(),) * 2), ticket.read_bytes(), re.S)
    if found is None:
        raise ValueError(f"{ticket} is no ticket of a room: it holds no {kind.lower()}")
    return found[0]


def _certificates(folder: Path, host: str) -> None:
    now = datetime.datetime.now(datetime.UTC)

    def certificate(subject: str, key: ec.EllipticCurvePublicKey, issuer: str) -> x509.CertificateBuilder:
        named = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)]) for n in (subject, issuer)]
        return (
            x509.CertificateBuilder()
            .subject_name(named[0])
            .issuer_name(named[1])
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=DAYS))
        )

    of_all, of_link = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = certificate("fmlab room", of_all.public_key(), "fmlab room")
    root = root.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    link = certificate("superlink", of_link.public_key(), "fmlab room")
    link = link.add_extension(x509.SubjectAlternativeName(_called(host)), critical=False)
    link = link.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    link = link.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    (folder / "ca.crt").write_bytes(root.sign(of_all, hashes.SHA256()).public_bytes(PEM))
    _write(folder / "server.key", _private(of_link))
    (folder / "server.pem").write_bytes(link.sign(of_all, hashes.SHA256()).public_bytes(PEM))


def _called(host: str) -> list[x509.GeneralName]:
    """The link's names: its address, and this machine's own."""
    found: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    try:
        address = ipaddress.ip_address(host)
        return found if address in (ipaddress.ip_address("127.0.0.1"),) else [*found, x509.IPAddress(address)]
    except ValueError:
        return [*found, x509.DNSName(host)]


def _good(folder: Path, host: str) -> bool:
    files = [folder / name for name in ("ca.crt", "server.pem", "server.key")]
    if not all(f.is_file() for f in files):
        return False
    found = x509.load_pem_x509_certificate(files[1].read_bytes())
    left = found.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return left > datetime.timedelta(days=1) and all(name in list(names) for name in _called(host))


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _write(path: Path, content: bytes) -> None:
    """For its owner's eyes."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as f:
        f.write(content)
