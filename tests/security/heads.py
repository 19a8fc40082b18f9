"""Requests whose head or framing is no HTTP/1.1, each of which must be answered 400."""

from service.http.protocol import MAX_LINE_BYTES

SECRET = b"s3cret-s3cret-s3cret-s3cret"
HEALTHZ = b"GET /healthz HTTP/1.1\r\n"
JSON = b"Host: x\r\nContent-Type: application/json\r\n"


def post(*lines: bytes, body: bytes = b"") -> bytes:
    return b"POST /v1/issue HTTP/1.1\r\n" + JSON + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def get(*lines: bytes, target: bytes = b"/healthz") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


MALFORMED = {
    "TLS to a plain port": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9.9": b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n",
    "no method": b" /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "an unknown method": b"BREW /v1/issue HTTP/1.1\r\nHost: x\r\n\r\n",
    "line feeds alone": b"GET /healthz HTTP/1.1\nHost: x\n\n",
    "no Host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two Hosts": get(b"Host: y"),
    "bytes beyond ASCII in the method": b"G\xc3\x8bT /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "bytes beyond ASCII in the version": b"GET /healthz HTTP/1.\xff\r\nHost: x\r\n\r\n",
    "a space in Host": HEALTHZ + b"Host: a b\r\n\r\n",
    "a path in Host": HEALTHZ + b"Host: a/b\r\n\r\n",
    "credentials in Host": HEALTHZ + b"Host: a@b\r\n\r\n",
    "bytes beyond ASCII in Host": HEALTHZ + b"Host: \xff\r\n\r\n",
    "an open bracket in Host": HEALTHZ + b"Host: [::1\r\n\r\n",
    "a port that is none in Host": HEALTHZ + b"Host: a:b\r\n\r\n",
    "a target that is no address": get(target=b"http://[::bad/"),
    "NUL in the target": get(target=b"/healthz\x00"),
    "a header without a colon": get(b"X-API-Key " + SECRET),
    "a header without a name": get(b": " + SECRET),
    "a space before the colon": get(b"X-API-Key : " + SECRET),
    "NUL in a header": get(b"X-API-Key: " + SECRET + b"\x00"),
    "CR in a header": get(b"X-API-Key: " + SECRET + b"\rX-Injected: 1"),
    "LF in a header": get(b"X-API-Key: " + SECRET + b"\nX-Injected 1"),
    "a folded header": get(b"X-API-Key: " + SECRET, b" folded"),
    "a line past the limit": get(b"X-API-Key: " + SECRET + b"a" * MAX_LINE_BYTES),
    "a target past the limit": get(target=b"/" + b"a" * MAX_LINE_BYTES),
    "200 headers": get(*(b"X-%d: %s" % (n, SECRET) for n in range(200))),
    # smuggling (RFC 9112, section 6.3): what two servers in a row could read in two ways
    "Content-Length and Transfer-Encoding": post(
        b"Content-Length: 4", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"
    ),
    "Transfer-Encoding and Content-Length": post(
        b"Transfer-Encoding: chunked", b"Content-Length: 4", body=b"0\r\n\r\n"
    ),
    "two lengths": post(b"Content-Length: 2", b"Content-Length: 3", body=b"{} "),
    "the same length twice": post(b"Content-Length: 2", b"Content-Length: 2", body=b"{}"),
    "a list of lengths": post(b"Content-Length: 2, 2", body=b"{}"),
    "a signed length": post(b"Content-Length: +2", body=b"{}"),
    "a negative length": post(b"Content-Length: -2", body=b"{}"),
    "a hexadecimal length": post(b"Content-Length: 0x2", body=b"{}"),
    "a length of 23 digits": post(b"Content-Length: 99999999999999999999999", body=b"{}"),
    "chunked, but not at last": post(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"),
    "an unknown coding": post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "chunked twice": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "a space before the coding's colon": post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"),
    "a chunk size that is none": post(b"Transfer-Encoding: chunked", body=b"zz\r\n{}\r\n0\r\n\r\n"),
    "a chunk longer than declared": post(b"Transfer-Encoding: chunked", body=b"2\r\n{}XX\r\n0\r\n\r\n"),
}
