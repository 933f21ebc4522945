"""Addresses that strangers wrote: what is refused, and that all the others have an end. The server is on the loopback interface."""

import io
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from psalm_hf import load_image
from psalm_hf.model import addresses
from psalm_hf.model.addresses import is_address, read_address


def png():
    file = io.BytesIO()
    Image.new("RGB", (6, 4), (1, 2, 3)).save(file, "PNG")
    return file.getvalue()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, headers=(), content=b""):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = True

    def do_GET(self):
        self.server.paths.append(self.path)
        length = [("Content-Length", str(len(png())))]
        port = self.server.server_port
        if self.path.startswith("/image"):
            self.answer(200, length, png())
        elif self.path == "/chunked":
            self.answer(200, [("Transfer-Encoding", "chunked")], b"%x\r\n%b\r\n0\r\n\r\n" % (len(png()), png()))
        elif self.path == "/until the end".replace(" ", "%20"):
            self.answer(200, [], png())
        elif self.path == "/near":
            self.answer(302, [("Location", "image")])
        elif self.path == "/loopback":
            self.answer(307, [("Location", f"http://127.0.0.1:{port}/image"), ("Content-Length", "0")])
        elif self.path == "/file":
            self.answer(302, [("Location", "file:///etc/passwd")])
        elif self.path == "/circle":
            self.answer(301, [("Location", "/circle")])
        elif self.path == "/promise":
            self.answer(200, [("Content-Length", str(10**12))], b"12")
        elif self.path == "/broken":
            self.answer(200, [("Content-Length", "1000")], png())
        elif self.path == "/endless":
            self.answer(200, [], bytes(5000))
        elif self.path in ("/drops", "/slow headers".replace(" ", "%20")):
            self.drip(b"HTTP/1.1 200 OK\r\n" + (b"\r\n" if self.path == "/drops" else b"X: "))
        else:
            self.answer(404)

    def drip(self, start):
        """A byte now and then, until the client goes; each one is in time for a timeout of a read."""
        self.close_connection = True
        try:
            self.wfile.write(start)
            while not self.server.is_over.wait(0.02):
                self.wfile.write(b"x")
        except OSError:
            pass


@contextmanager
def serving():
    server = ThreadingHTTPServer(("0.0.0.0", 0), Handler)
    server.daemon_threads, server.paths, server.is_over = True, [], threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.is_over.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def server():
    with serving() as found:
        yield found


def test_an_address_of_this_machine_is_read_only_where_the_caller_allows_it(server):
    here = f"http://127.0.0.1:{server.server_port}/image"
    del server.paths[:]
    advice = "give the image as a file, or in Python allow_private_addresses=True"
    with pytest.raises(ValueError, match=rf"127\.0\.0\.1.*in its own network; {advice}"):
        load_image(here)
    assert server.paths == []  # nothing was asked
    assert load_image(here, allow_private_addresses=True).getpixel((5, 3)) == (1, 2, 3)


@pytest.mark.parametrize("path", ["/image?a=b c", "/image#part", "/chunked", "/until the end", "/near", "/loopback"])
def test_answers_of_every_form_are_read(server, path):
    assert load_image(f"HTTP://localhost:{server.server_port}{path}", allow_private_addresses=True).size == (6, 4)


@pytest.mark.parametrize(
    "host",
    ["localhost", "127.1", "2130706433", "0x7f.0.0.1", "0.0.0.0", "0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"]
    + ["100.64.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::127.0.0.1]", "[fe80::1]"]
    + ["[fc00::1]", "[fec0::1]", "[ff02::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "①②⑦.⓪.⓪.①"],
)
def test_private_addresses_are_refused_in_every_spelling(host, monkeypatch):
    monkeypatch.setattr(addresses.socket, "socket", lambda *_: pytest.fail("a connection was tried"))
    with pytest.raises(ValueError, match="in its own network|gaierror|Errno"):  # a machine without IPv6 cannot look some of them up
        load_image(f"http://{host}:9/image")


@pytest.mark.parametrize(
    ("numeric", "is_public"),
    [("8.8.8.8", True), ("2606:4700::1111", True), ("64:ff9b::808:808", True), ("64:ff9b::a00:1", False), ("::ffff:8.8.8.8", True)]
    + [("::ffff:10.0.0.1", False), ("2002:a00:1::", False), ("::a00:1", False), ("198.18.0.1", False), ("fe80::1%1", False)],
)
def test_what_counts_is_the_address_inside(numeric, is_public):
    assert addresses._is_public(numeric) == is_public


def test_a_name_with_a_public_and_a_private_address_is_refused(monkeypatch):
    places = [(addresses.socket.AF_INET, 1, 6, "", (numeric, 80)) for numeric in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(addresses.socket, "getaddrinfo", lambda *_, **__: places)
    with pytest.raises(ValueError, match="in its own network"):
        load_image("http://both.example/image")


def test_a_redirect_to_a_private_address_is_refused(server, monkeypatch):
    monkeypatch.setattr(addresses, "_is_public", lambda numeric: numeric == "127.0.0.2")  # stands for a public server
    assert load_image(f"http://127.0.0.2:{server.server_port}/near").size == (6, 4)
    del server.paths[:]
    with pytest.raises(ValueError, match=r"leads to http://127\.0\.0\.1:.*own network"):
        load_image(f"http://127.0.0.2:{server.server_port}/loopback")
    assert server.paths == ["/loopback"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/file", r"leads to file:///etc/passwd: only addresses of http:// and https://"),
        ("/circle", "more than 5 redirects"),
        ("/none", "status 404"),
        ("/broken", "broke off after .* of 1000 bytes"),
        ("/promise", "1000000000000 bytes; at most 67108864"),
        ("/drops", "longer than 0.3 s"),
        ("/slow headers", "longer than 0.3 s"),
        ("/image", "timeout: expected seconds above 0, got 0"),
    ],
)
def test_answers_that_are_no_image_end_by_name(server, path, reason):
    with pytest.raises(ValueError, match=reason):
        load_image(f"http://127.0.0.1:{server.server_port}{path}", timeout=0 if path == "/image" else 0.3, allow_private_addresses=True)


def test_content_without_a_length_is_read_up_to_a_limit(server, monkeypatch):
    address = f"http://127.0.0.1:{server.server_port}/endless"
    assert len(read_address(address, 20.0, True)) == 5000
    monkeypatch.setattr(addresses, "MAX_ADDRESS_BYTES", 4999)
    with pytest.raises(ValueError, match="more than 4999 bytes"):
        load_image(address, allow_private_addresses=True)


def test_a_slow_look_up_of_a_name_is_in_the_time_too(monkeypatch):
    is_over = threading.Event()
    monkeypatch.setattr(addresses.socket, "getaddrinfo", lambda *_, **__: is_over.wait(60))
    try:
        with pytest.raises(ValueError, match="longer than 0.05 s"):
            load_image("http://slow.example/image", timeout=0.05)
    finally:
        is_over.set()


@pytest.mark.parametrize(
    "address",
    ["file:///etc/passwd", "FILE:///etc/passwd", "ftp://127.0.0.1/a.png", "data:image/png;base64,AAAA", "http://", "http:///a.png"],
)
def test_other_schemes_are_refused(address):
    assert is_address(address)
    with pytest.raises(ValueError, match="only addresses of http:// and https://"):
        load_image(address, allow_private_addresses=True)


def test_user_names_are_not_sent(server):
    with pytest.raises(ValueError, match="user name") as caught:
        load_image(f"http://me:secret@127.0.0.1:{server.server_port}/image", allow_private_addresses=True)
    assert "secret" not in str(caught.value)


def test_long_addresses_are_cut_in_messages():
    with pytest.raises(ValueError) as caught:
        load_image("data:image/png;base64," + "A" * 10**6)
    assert len(str(caught.value)) < 600


def test_paths_are_no_addresses():
    assert not any(map(is_address, ("a.png", "/a.png", "C:\\a.png", "C:/a.png", "a:b.png", "http:/a.png", "")))
