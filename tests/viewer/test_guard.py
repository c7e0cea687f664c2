"""The layer round the page's server: foreign origins, uploads without end, and the headers of every answer."""

import asyncio

import pytest

from slivit.viewer.guard import Guard


async def application(scope, receive, send):
    """Reads its whole body and says how long it was; None where the sender broke off."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    length, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            length = None
            break
        length, more = length + len(message["body"]), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(length).encode()})


def ask(kind="http", parts=(b"",), **headers):
    sent = []
    waiting = [{"type": "http.request", "body": p, "more_body": i + 1 < len(parts)} for i, p in enumerate(parts)]
    named = [(k.replace("_", "-").encode(), v.encode()) for k, v in {"host": "127.0.0.1:8080", **headers}.items()]

    async def receive():
        return waiting.pop(0)

    async def send(message):
        sent.append(message)

    asyncio.run(Guard(application, largest=100)({"type": kind, "headers": named}, receive, send))
    return sent


@pytest.mark.parametrize("origin", ["https://elsewhere.org", "http://127.0.0.1:9090", "null"])
def test_a_foreign_origin_gets_no_answer(origin):
    assert ask("websocket", origin=origin) == [{"type": "websocket.close", "code": 1008}]
    assert ask(origin=origin)[0]["status"] == 403


def test_the_page_itself_is_answered():
    assert ask("websocket", origin="http://127.0.0.1:8080") == [{"type": "websocket.accept"}]
    assert ask("websocket") == [{"type": "websocket.accept"}]  # no browser leaves the origin out
    assert ask(parts=(b"a" * 60, b"a" * 40))[1]["body"] == b"100"


def test_an_upload_has_an_end():
    assert ask(content_length="101")[0]["status"] == 413
    assert ask(parts=(b"a" * 60,) * 9)[1]["body"] == b"None"


@pytest.mark.parametrize("headers", [{}, {"content_length": "1000"}, {"origin": "https://elsewhere.org"}])
def test_no_answer_is_shown_in_a_frame_of_another_site(headers):
    told = dict(ask(**headers)[0]["headers"])
    assert told[b"x-frame-options"] == b"DENY"
    assert b"frame-ancestors 'none'" in told[b"content-security-policy"]
    assert told[b"x-content-type-options"] == b"nosniff"
