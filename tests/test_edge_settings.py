"""The edge's configuration, certificates and documentation."""

import inspect
import re
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from serve_app.edge.certificates import given_bundle, own_bundle
from serve_app.edge.configuration import Surroundings, render
from serve_app.edge.errors import EdgeError
from serve_app.edge.listeners import addresses
from serve_app.edge.process import check, find_haproxy
from serve_app.edge.settings import Address, EdgeSettings, parse_address, read_settings
from tests.test_docs import ROOT, row

BACKENDS = "127.0.0.1:8001,10.0.0.7:8000,[::1]:8000"
VARIANTS: list[dict[str, Any]] = [
    {},
    {"funasr_port": 0},
    {"funasr_port": 8000},
    {"https_port": 8443},
    {"funasr_port": 0, "https_port": 8443},
    {"metrics": "off"},
    {"max_connections_per_source": 20},
    {"trusted_proxies": "10.0.0.0/8, fd00::/8, 127.0.0.1"},
    {"trusted_proxies": "*"},
    {"host": "::"},
    {"backends": "node-a.cluster.local:8000,localhost:8001"},
    {
        "host": "0.0.0.0",
        "https_port": 443,
        "metrics": "0.0.0.0:9000",
        "max_connections": 9,
        "max_connections_per_source": 3,
        "trusted_proxies": "192.168.0.1",
        "backends": "serve:8000",
        "grace_sec": 1,
    },
]


@pytest.mark.parametrize("access_log", [True, False])
@pytest.mark.parametrize("values", VARIANTS, ids=lambda values: ",".join(values) or "default")
def test_haproxy_takes_every_variant_without_a_warning(
    tmp_path: Path, values: dict[str, Any], access_log: bool
) -> None:
    settings = read_settings(**{"backends": BACKENDS, "data_dir": tmp_path, **values})
    certificate = tmp_path / "edge.pem"
    certificate.write_bytes(own_bundle(tmp_path, []))
    binds = {name: str(address) for name, address in addresses(settings).items()}
    config = render(
        settings, Surroundings(binds, tmp_path, certificate if settings.uses_tls else None, access_log)
    )
    path = tmp_path / "haproxy.cfg"
    path.write_text(config)
    result = subprocess.run(
        [find_haproxy(), "-c", "-dW", "-f", path], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "Configuration file is valid\n"


def test_a_refused_configuration_is_an_error_with_the_reason() -> None:
    with pytest.raises(EdgeError, match=r"HAProxy refuses the configuration: .*unknown keyword 'nonsense'"):
        check("global\n    nonsense\n")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8000", ("127.0.0.1", 8000)),
        (" serve-head:1 ", ("serve-head", 1)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_addresses_are_read(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address
    assert parse_address(str(parse_address(text))) == address


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":80", "host:0", "host:65536", "::1:80", "a b:80", "a:80\nx"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a host and a port"):
        parse_address(text)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_BACKENDS", BACKENDS)
    monkeypatch.setenv("EDGE_METRICS", "OFF")
    monkeypatch.setenv("EDGE_FUNASR_PORT", "10096")
    monkeypatch.setenv("EDGE_HOST", "")
    monkeypatch.setenv("DATA_DIR", "/data")
    settings = read_settings(host=None, funasr_port=10097)
    assert settings.backends == (Address("127.0.0.1", 8001), Address("10.0.0.7", 8000), Address("::1", 8000))
    assert (settings.metrics, settings.funasr_port, settings.host) == (None, 10097, "127.0.0.1")
    assert settings.data_dir == Path("/data")


def make(key: Any, *, days: float) -> bytes:
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=400))
        .not_valid_after(now + timedelta(days=days))
        .sign(key, SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def pem(key: Any, passphrase: bytes | None = None) -> bytes:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase)
    encoded: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, encryption
    )
    return encoded


def test_a_certificate_is_made_once_and_its_key_is_private(tmp_path: Path) -> None:
    directory = tmp_path / "data" / "edge"
    bundle = own_bundle(directory, ["asr.test", "192.168.1.5"])
    assert own_bundle(directory, ["asr.test"]) == bundle
    assert stat.S_IMODE((directory / "key.pem").stat().st_mode) == 0o600
    assert sorted(path.name for path in directory.iterdir()) == ["cert.pem", "key.pem"]
    certificate = x509.load_pem_x509_certificate(bundle)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"asr.test", "localhost"} <= set(names.get_values_for_type(x509.DNSName))
    assert {"127.0.0.1", "::1", "192.168.1.5"} <= {
        str(address) for address in names.get_values_for_type(x509.IPAddress)
    }
    assert certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=800)


@pytest.mark.parametrize("days", [-1, 5])
def test_a_certificate_that_ends_is_made_anew(tmp_path: Path, days: float) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    old = make(key, days=days)
    (tmp_path / "cert.pem").write_bytes(old)
    (tmp_path / "key.pem").write_bytes(pem(key))
    assert own_bundle(tmp_path, []) != old + b"\n" + pem(key)
    assert x509.load_pem_x509_certificate(own_bundle(tmp_path, [])).not_valid_after_utc > datetime.now(UTC)


def test_a_damaged_certificate_is_made_anew(tmp_path: Path) -> None:
    own_bundle(tmp_path, [])
    (tmp_path / "key.pem").write_bytes(b"cut off")
    assert b"PRIVATE KEY" in own_bundle(tmp_path, [])


def test_a_directory_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EdgeError, match=r"cannot be kept in .*file/edge: Not a directory\. Set DATA_DIR"):
        own_bundle(tmp_path / "file" / "edge", [])


def test_given_certificates_are_checked(tmp_path: Path) -> None:
    key, other = ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)
    chain, keyfile = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(make(key, days=9) + make(other, days=9))
    keyfile.write_bytes(pem(key))
    bundle, ends = given_bundle(chain, keyfile)
    assert bundle.count(b"BEGIN CERTIFICATE") == 2
    assert timedelta(days=8) < ends - datetime.now(UTC) < timedelta(days=10)
    for content, reason in (
        (pem(other), "does not belong to EDGE_CERTFILE"),
        (pem(key, b"secret"), "is encrypted"),
        (b"nothing", "holds no PEM private key"),
    ):
        keyfile.write_bytes(content)
        with pytest.raises(EdgeError, match=reason):
            given_bundle(chain, keyfile)
    with pytest.raises(EdgeError, match=r"EDGE_CERTFILE .* holds no PEM private key"):
        given_bundle(chain, None)
    with pytest.raises(EdgeError, match=r"EDGE_KEYFILE .*missing\.pem cannot be read: No such file"):
        given_bundle(chain, tmp_path / "missing.pem")


def test_settings_of_the_edge_are_documented_with_their_defaults() -> None:
    document = ROOT / "docs" / "edge.md"
    for name, field in EdgeSettings.model_fields.items():
        variable = name.upper() if field.validation_alias else f"EDGE_{name.upper()}"
        default = "–" if field.default in (None, ()) else str(field.default)
        _, shown, meaning = row(document, f"`{variable}`")
        assert shown in (default, f"`{default}`"), variable
        assert meaning
    named = set(re.findall(r"`(EDGE_[A-Z_]+)`", document.read_text(encoding="utf-8")))
    known = {f"EDGE_{name.upper()}" for name in EdgeSettings.model_fields}
    assert named <= known


def test_every_setting_says_what_it_is() -> None:
    source = inspect.getsource(EdgeSettings)
    for name in EdgeSettings.model_fields:
        assert re.search(rf'^    {name}: .*?\n    """', source, re.MULTILINE | re.DOTALL), name
