"""Recordings by URL: what comes in, and that nothing else does, whatever the other side tries."""

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from serve_app.errors import AudioTooLarge, DownloadFailed
from serve_app.fetching import AddressRefused, Fetcher, guarded_client
from serve_app.settings import Settings
from tests.internet import PUBLIC, Handler, Internet, reply, site

SOUND = b"RIFF" + bytes(range(256)) * 16
LARGE = 3 << 20

pytestmark = pytest.mark.usefixtures("nothing_is_left")


@pytest.fixture
async def nothing_is_left() -> AsyncIterator[None]:
    process = psutil.Process()
    before = process.num_fds()
    yield
    for _ in range(500):
        if process.num_fds() <= before:
            break
        await asyncio.sleep(0.01)
    assert process.num_fds() <= before
    assert asyncio.all_tasks() <= {asyncio.current_task()}


def answering(body: bytes) -> Handler:
    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(body)

    return answer


def redirecting(target: str) -> Handler:
    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        status = "302 Found"
        writer.write(reply(status=status, location=target) if path == "/" else reply(SOUND))

    return answer


async def fetch(fetcher: Fetcher, url: str) -> bytes:
    async with fetcher.fetch(url, param="file_url") as file:
        return file.read()


async def refusal(fetcher: Fetcher, url: str) -> str:
    with pytest.raises(DownloadFailed) as caught:
        await fetch(fetcher, url)
    assert caught.value.param == "file_url"
    return caught.value.message


@asynccontextmanager
async def world(answer: Handler, **names: list[list[str]]) -> AsyncIterator[tuple[Internet, list[str]]]:
    internet = Internet({"cdn.test": [[PUBLIC]], **{f"{name}.test": found for name, found in names.items()}})
    async with site(internet, answer) as heads:
        yield internet, heads


async def test_a_recording_comes_in_as_it_is() -> None:
    async with world(answering(reply(SOUND))) as (internet, heads):
        assert await fetch(internet.fetcher(), "http://cdn.test/a.wav?sign=x#part") == SOUND
    assert internet.connected == [PUBLIC]
    assert heads[0].startswith("GET /a.wav?sign=x HTTP/1.1\r\nHost: cdn.test\r\n")
    assert "accept-encoding: identity" in heads[0].lower()


async def test_a_large_one_lies_on_disk_and_is_gone_afterwards() -> None:
    body = bytes(LARGE)
    async with world(answering(reply(body))) as (internet, _):
        async with internet.fetcher().fetch("http://cdn.test/", param="url") as file:
            assert file.read() == body
        assert file.closed


@pytest.mark.parametrize(
    "target", ["/b.wav", "http://other.test/b.wav", "//other.test/b.wav", "https://cdn.test:80/b.wav"]
)
async def test_redirects_are_followed(target: str) -> None:
    target = target.replace("https", "http")
    async with world(redirecting(target), other=[["2606:4700::1111"]]) as (internet, _):
        assert await fetch(internet.fetcher(), "http://cdn.test/") == SOUND


FORBIDDEN = [
    "127.0.0.1", "localhost", "localhost.", "LOCALHOST", "127.1", "127.0.1", "2130706433", "0x7f000001",
    "0x7f.1", "0177.0.0.1", "017700000001", "0x7f.0x0.0x0.0x1", "127.0.0.1.", "0", "0.0.0.0", "10.0.0.1",
    "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "100.100.100.200", "169.254.169.254",
    "2852039166", "0xA9FEA9FE", "0251.0376.0251.0376", "192.0.0.192", "168.63.129.16", "198.18.0.1",
    "192.0.2.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "[::]", "[::1]", "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:10.0.0.1]", "[::ffff:a9fe:a9fe]", "[::127.0.0.1]",
    "[::ffff:0:127.0.0.1]", "[64:ff9b::127.0.0.1]", "[64:ff9b::a00:1]", "[64:ff9b:1::808:808]",
    "[2002:7f00:1::]", "[2002:808:808::]", "[2001:0:4136:e378:8000:63bf:3fff:fdd2]", "[fc00::1]",
    "[fd00:ec2::254]", "[fe80::1]", "[fe80::1%25lo]", "[fec0::1]", "[ff02::1]", "[2001:db8::1]",
    "[2606:4700::5efe:10.0.0.1]", "[100::1]", "[5f00::1]", "127。0。0。1", "１２７.0.0.1",
    "cdn.test@127.0.0.1", "127.0.0.1:80", "private.test", "mixed.test", "mapped.test", "unknown.test",
]  # fmt: skip
NAMES = {
    "private": [["10.1.2.3"]],
    "mixed": [[PUBLIC, "10.1.2.3"]],
    "mapped": [["::ffff:10.1.2.3"]],
}


@pytest.mark.parametrize("host", FORBIDDEN)
async def test_a_forbidden_host_is_refused_in_every_form(host: str) -> None:
    async with world(answering(reply(SOUND)), **NAMES) as (internet, heads):
        await refusal(internet.fetcher(), f"http://{host}/latest/meta-data")
    assert (internet.connected, heads) == ([], [])


@pytest.mark.parametrize("host", FORBIDDEN)
async def test_a_redirect_to_a_forbidden_host_is_refused(host: str) -> None:
    async with world(redirecting(f"http://{host}/admin"), **NAMES) as (internet, heads):
        await refusal(internet.fetcher(), "http://cdn.test/")
    assert internet.connected == [PUBLIC]
    assert len(heads) == 1


async def test_refusals_do_not_tell_what_is_there() -> None:
    async with world(answering(reply(SOUND)), **NAMES) as (internet, _):
        fetcher = internet.fetcher()
        hosts = ["127.0.0.1", "127.0.0.1:1", "10.0.0.1:22", "private.test", "mixed.test", "unknown.test"]
        sentences = {await refusal(fetcher, f"http://{host}/") for host in hosts}
    (sentence,) = sentences
    assert "10." not in sentence


@pytest.mark.parametrize(
    "url",
    [
        "", " ", "file:///etc/passwd", "file://cdn.test/etc/passwd", "gopher://cdn.test/_x", "ftp://cdn.test/a",
        "data:audio/wav;base64,AAAA", "dict://cdn.test/", "jar:http://cdn.test/a!/b", "unix:/tmp/x",
        "/etc/passwd", "cdn.test/a.wav", "//cdn.test/a.wav", "http:", "http://", "http:///a.wav",
        "http:cdn.test",
        "http://user:secret@cdn.test/", "http://user@cdn.test/", "http://cdn.test:99999/", "http://cdn.test:0/",
        "http://cdn.test:x/",
        "http://cdn.test\r\nx: y/", "http://[::1/", "http://exa mple/", "http://①②⑦.⓪.⓪.①/", "http://%00/",
        "http://" + "a" * 70 + ".test/", "http://cdn.test/" + "a" * 9000, "http://..", "http://.test/",
    ],
)  # fmt: skip
async def test_other_urls_are_refused(url: str) -> None:
    async with world(answering(reply(SOUND))) as (internet, heads):
        message = await refusal(internet.fetcher(), url)
    assert message.endswith(".")
    assert "secret" not in message
    assert (internet.connected, heads) == ([], [])


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/passwd",
        "gopher://cdn.test/",
        "data:,x",
        "http://a:b@cdn.test/x",
        "http://[",
        "ftp://cdn.test",
    ],
)
async def test_a_redirect_to_another_scheme_is_refused(target: str) -> None:
    async with world(redirecting(target)) as (internet, heads):
        await refusal(internet.fetcher(), "http://cdn.test/")
    assert len(heads) == 1


async def test_a_name_that_changes_its_address_gains_nothing() -> None:
    """Asked once per connection, and the answer that was checked is what is connected to."""
    answers = [[PUBLIC], ["127.0.0.1"]]
    async with world(answering(reply(SOUND)), rebind=answers) as (internet, _):
        assert await fetch(internet.fetcher(), "http://rebind.test/") == SOUND
        assert (internet.asked, internet.connected) == (["rebind.test"], [PUBLIC])
        await refusal(internet.fetcher(), "http://rebind.test/")
        assert internet.connected == [PUBLIC]


async def test_a_name_that_changes_its_address_for_its_own_redirect_is_refused() -> None:
    async with world(redirecting("/next"), rebind=[[PUBLIC], ["10.0.0.1"]]) as (internet, heads):
        await refusal(internet.fetcher(), "http://rebind.test/")
    assert (internet.connected, len(heads)) == ([PUBLIC], 1)


@pytest.mark.parametrize(
    ("allowed", "host"),
    [
        ("127.0.0.0/8", "127.0.0.1"),
        ("::ffff:127.0.0.1, 127.0.0.1", "2130706433"),
        ("10.1.2.3", "mapped.test"),
        ("MinIO.internal., private.test", "Private.test"),
        ("PRIVATE.test.", "private.test"),
        ("*", "private.test"),
        ("fd00::/8", "[fd00::1]"),
    ],
)
async def test_private_hosts_may_be_allowed(allowed: str, host: str) -> None:
    async with world(answering(reply(SOUND)), **NAMES) as (internet, _):
        fetcher = internet.fetcher(allow_private_urls=allowed)
        assert await fetch(fetcher, f"http://{host}/") == SOUND
        if allowed != "*":
            await refusal(fetcher, "http://169.254.169.254/")


@pytest.mark.parametrize("listed", ["10.0.0.0/40", "10.0.0", "http://minio", "10.0.0.1:80", "1.2.3.4/16"])
def test_a_mistyped_list_of_hosts_is_refused_at_the_start(listed: str) -> None:
    with pytest.raises(ValueError, match="allow_private_urls"):
        Settings(allow_private_urls=listed)


async def drip(path: str, writer: asyncio.StreamWriter) -> None:
    writer.write(reply(length=1000))
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


async def flood(path: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(bytes(1 << 16))
        await writer.drain()


async def flood_behind_redirect(path: str, writer: asyncio.StreamWriter) -> None:
    if path != "/":
        writer.write(reply(SOUND))
        return
    writer.write(b"HTTP/1.1 302 Found\r\nlocation: /next\r\n\r\n")
    while True:
        writer.write(bytes(1 << 16))
        await writer.drain()


async def silent(path: str, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def only_information(path: str, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.001)


async def endless_head(path: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x: " + b"y" * 1000 + b"\r\n")
        await writer.drain()


async def endless_chunked(path: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
        await writer.drain()


@pytest.mark.parametrize("answer", [drip, silent, only_information])
async def test_who_is_slow_is_given_up(answer: Handler) -> None:
    async with world(answer) as (internet, _):
        assert "0.3 seconds" in await refusal(internet.fetcher(download_timeout_sec=0.3), "http://cdn.test/")


async def test_a_name_server_that_does_not_answer_is_given_up() -> None:
    async def never(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    fetcher = Fetcher(Settings(download_timeout_sec=0.1), never)
    assert "0.1 seconds" in await refusal(fetcher, "http://cdn.test/")


@pytest.mark.parametrize("answer", [flood, endless_chunked, answering(reply(bytes(LARGE)))])
async def test_who_sends_too_much_is_cut_off(answer: Handler) -> None:
    async with world(answer) as (internet, _):
        with pytest.raises(AudioTooLarge, match="larger than 2 MB"):
            await fetch(internet.fetcher(max_audio_size="2MB"), "http://cdn.test/")


async def test_what_is_announced_as_too_large_is_not_read() -> None:
    async def announce(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(length=LARGE))
        await silent(path, writer)

    async with world(announce) as (internet, _):
        with pytest.raises(AudioTooLarge):
            await fetch(internet.fetcher(max_audio_size="2MB"), "http://cdn.test/")


async def test_the_body_of_a_redirect_is_not_read() -> None:
    async with world(flood_behind_redirect) as (internet, _):
        assert await fetch(internet.fetcher(), "http://cdn.test/") == SOUND


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (answering(reply(SOUND, length=len(SOUND) + 1)), "broke off"),
        (answering(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab"), "broke off"),
        (answering(b""), "broke off"),
        (answering(b"SSH-2.0-OpenSSH_9.6\r\n"), "not valid HTTP"),
        (endless_head, "not valid HTTP"),
        (answering(reply(gzip.compress(bytes(LARGE)), content_encoding="gzip")), "compressed"),
        (answering(reply(b"x", content_encoding="br")), "compressed"),
        (answering(reply(b"no", "404 Not Found")), "status 404"),
        (answering(reply(b"no", "500 Oops")), "status 500"),
        (answering(reply(SOUND, "206 Partial Content")), "status 206"),
        (answering(reply(status="204 No Content")), "status 204"),
        (answering(reply(status="304 Not Modified")), "status 304"),
        (redirecting("/"), "redirected more than 5 times"),
    ],
)
async def test_what_goes_wrong_is_told(answer: Handler, sentence: str) -> None:
    async with world(answer) as (internet, _):
        assert sentence in await refusal(internet.fetcher(), "http://cdn.test/")


@pytest.mark.parametrize(
    ("answer", "url", "temporary"),
    [
        (answering(reply(b"no", "503 Busy")), "http://cdn.test/", True),
        (answering(reply(SOUND, length=len(SOUND) + 1)), "http://cdn.test/", True),
        (answering(reply(b"no", "404 Not Found")), "http://cdn.test/", False),
        (answering(reply(SOUND)), "http://127.0.0.1/", False),
        (answering(reply(SOUND)), "ftp://cdn.test/", False),
    ],
)
async def test_what_may_pass_is_told_from_what_will_not(answer: Handler, url: str, temporary: bool) -> None:
    async with world(answer) as (internet, _):
        with pytest.raises(DownloadFailed) as caught:
            await fetch(internet.fetcher(), url)
    assert caught.value.temporary is temporary


async def test_no_redirects_at_all() -> None:
    async with world(redirecting("/next")) as (internet, heads):
        await refusal(internet.fetcher(download_max_redirects=0), "http://cdn.test/")
    assert len(heads) == 1


async def test_cookies_do_not_go_from_one_recording_to_the_next() -> None:
    async with world(answering(reply(SOUND, set_cookie="session=1; Path=/"))) as (internet, heads):
        fetcher = internet.fetcher()
        await fetch(fetcher, "http://cdn.test/")
        await fetch(fetcher, "http://cdn.test/")
    assert not any("cookie:" in head.lower() for head in heads)


async def test_a_fetch_that_is_cancelled_leaves_nothing() -> None:
    started = asyncio.Event()

    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(bytes(2 << 20), length=LARGE))
        await writer.drain()
        started.set()
        await silent(path, writer)

    async with world(answer) as (internet, _):
        task = asyncio.create_task(fetch(internet.fetcher(), "http://cdn.test/"))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_the_next_address_is_tried_if_one_does_not_answer() -> None:
    addresses = ["93.184.215.15", PUBLIC]
    async with world(answering(reply(SOUND)), two=[addresses]) as (internet, _):
        internet.down.add(addresses[0])
        assert await fetch(internet.fetcher(), "http://two.test/") == SOUND
    assert internet.connected == addresses


async def test_no_connection_is_told() -> None:
    internet = Internet({"cdn.test": [[PUBLIC]]})
    internet.down.add(PUBLIC)
    assert "No connection" in await refusal(internet.fetcher(), "http://cdn.test/")


async def test_the_environments_proxy_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with world(answering(reply(SOUND))) as (internet, heads):
        assert await fetch(internet.fetcher(), "http://cdn.test/") == SOUND
        await refusal(internet.fetcher(), "http://127.0.0.1/")
    assert heads[0].startswith("GET / ")


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's certificate for ``cdn.test``, which this process trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cdn.test")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("cdn.test")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


async def test_tls_checks_the_name_and_not_the_address(certificate: ssl.SSLContext) -> None:
    asked: list[str | None] = []
    certificate.sni_callback = lambda socket, name, context: asked.append(name)
    internet = Internet({"cdn.test": [[PUBLIC]], "other.test": [[PUBLIC]]})
    async with site(internet, answering(reply(SOUND)), certificate):
        assert await fetch(internet.fetcher(), "https://cdn.test/") == SOUND
        assert "No connection" in await refusal(internet.fetcher(), "https://other.test/")
        await refusal(internet.fetcher(), f"https://{PUBLIC}/")
    assert asked[:2] == ["cdn.test", "other.test"]


Call = Callable[[httpx.AsyncClient, str], Awaitable[object]]


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "http://[::1]/", "http://private.test/hook"])
async def test_webhooks_are_guarded_the_same_way(url: str) -> None:
    async with (
        world(answering(reply(b"taken")), **NAMES) as (internet, _),
        guarded_client(Settings(), resolver=internet.resolve, network=internet) as client,
    ):
        assert (await client.post("http://cdn.test/hook", json={"a": 1})).text == "taken"
        with pytest.raises(AddressRefused):
            await client.post(url, json={"a": 1})
    assert internet.connected == [PUBLIC]
