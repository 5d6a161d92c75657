"""How the InfluxDB store connects: never for longer than allowed, only to a server it can trust."""

import datetime
import ipaddress
import socket
import threading
import time
from contextlib import contextmanager

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from feeder_mixin.errors import StoreError, StoreUnavailableError
from feeder_mixin.stores.base import Latest
from feeder_mixin.stores.influx import InfluxStore
from tests.builders import FEEDER
from tests.fake_influx import running_server

TOKEN = "hush-hush"  # noqa: S105  (a token of no server)
EMPTY = (200, '{"results":[{"statement_id":0}]}')


@pytest.fixture
def trickler():
    """Give a function that runs a server which sends one byte of an answer every 10 ms."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n"

    @contextmanager
    def run(where):
        at_once, slowly = (b"", head) if where == "head" else (head, b"[" * 9999)
        stopped = threading.Event()

        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(at_once)
                for byte in slowly:
                    if stopped.wait(0.01):
                        return
                    connection.send(bytes([byte]))

        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=serve)
            thread.start()
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            stopped.set()
            thread.join()

    return run


def test_silent_server_is_given_up_in_time(server, now):
    """A server that never answers costs the time-out once, whatever attempts are left."""
    release = threading.Event()
    server.answers += [(200, lambda: str(release.wait(30)))]
    store = InfluxStore(server.url, org="o", token=TOKEN, timeout_s=0.2, attempts=3)
    started = time.monotonic()
    with pytest.raises(StoreUnavailableError, match=r"timed out: no whole answer within 0\.2 s"):
        store.latest(FEEDER, now=now)
    release.set()
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    "where", [pytest.param("head", id="head"), pytest.param("body", id="body")]
)
def test_trickling_server_is_given_up_in_time(trickler, now, where):
    """A byte now and then, in the head or the body of an answer, keeps nobody waiting for longer."""
    with trickler(where) as url:
        store = InfluxStore(url, org="o", token=TOKEN, timeout_s=0.3, attempts=3)
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError, match=r"no whole answer within 0\.3 s"):
            store.latest(FEEDER, now=now)
        assert time.monotonic() - started < 1


def test_busy_server_is_given_up_in_time(server, now):
    """Tries and the waits between them end with the time-out, too."""
    server.answers += [(503, "busy")] * 50
    store = InfluxStore(server.url, org="o", token=TOKEN, timeout_s=0.3, attempts=50)
    started = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="status 503: busy"):
        store.latest(FEEDER, now=now)
    assert time.monotonic() - started < 1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Make a throw-away certificate for loopback, signed by itself; give its file and its key's."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return str(folder / "cert.pem"), str(folder / "key.pem")


def test_certificate_of_an_unknown_authority_is_refused_and_says_what_to_do(certificate, now):
    """Nothing is sent to a server that can't prove its name; the error names the variable."""
    with running_server(certificate) as server:
        store = InfluxStore(server.url, org="o", token=TOKEN)
        with pytest.raises(StoreError, match=r"no secure connection.*SSL_CERT_FILE") as caught:
            store.latest(FEEDER, now=now)
        assert "certificate verify failed" in str(caught.value)
        assert not isinstance(caught.value, StoreUnavailableError)  # trying again would not help
        assert server.asked == []


def test_certificate_of_the_authority_in_the_environment_is_trusted(certificate, now, monkeypatch):
    """With the authority's file in SSL_CERT_FILE the same server is asked, over TLS."""
    monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
    with running_server(certificate) as server:
        server.always = EMPTY
        with InfluxStore(server.url, org="o", token=TOKEN) as store:
            assert store.latest(FEEDER, now=now) == Latest()
        assert server.asked


def test_certificate_of_another_host_is_refused(certificate, now, monkeypatch):
    """A trusted certificate for another name is no proof."""
    monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
    with running_server(certificate) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        with pytest.raises(StoreError, match="no secure connection"):
            InfluxStore(url, org="o", token=TOKEN).latest(FEEDER, now=now)
        assert server.asked == []
