"""The local server of a session: whom it answers, what it takes, and what it says."""

from __future__ import annotations

import json

import pytest
from starlette.testclient import TestClient

from pipeline.play.served import model_bundle, served_bundle
from pipeline.play.server import BODY_BYTES, TEXT_LENGTH, application

PORT = 8710
HERE = f"http://127.0.0.1:{PORT}"
TEXT = {"text": "f(<ab"}


@pytest.fixture(scope="module")
def client(session):
    return TestClient(application(session, PORT), base_url=HERE)


def test_a_text_is_answered_as_the_session_answers(client, session):
    asked = TEXT | {"circuit": "closing", "off_nodes": ["0.attn_q.2"], "inside": "model", "at": 3, "node": "0.attn_q.3"}
    asked |= {"head": [0, 0]}
    reply = client.post("/run", json=asked)
    assert reply.status_code == 200
    assert reply.json() == session.run(**asked)


def test_the_page_knows_the_circuits_and_a_circuit_is_described(client, session):
    page = client.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert 'data-served="closing"' in page.text and "16 nodes, 16 edges" in page.text
    assert client.get("/circuit/closing").json() == json.loads(json.dumps(served_bundle(session, "closing")))
    assert client.get("/circuit/").json() == model_bundle(session)


@pytest.mark.parametrize("host", [f"127.0.0.1:{PORT}", f"localhost:{PORT}"])
def test_it_answers_by_its_two_names(client, host):
    assert client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", f"evil.example:{PORT}", "127.0.0.1", "localhost:8711", f"0.0.0.0:{PORT}", ""]
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("GET", "/circuit/closing"), ("POST", "/run")])
def test_it_refuses_every_other_host_name(client, host, method, path):
    reply = client.request(method, path, headers={"Host": host}, json=TEXT)
    assert reply.status_code == 403 and "closing" not in reply.text


def test_it_refuses_pages_of_other_sites_and_gives_them_no_leave_to_read(client):
    assert client.post("/run", json=TEXT, headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.post("/run", json=TEXT, headers={"Origin": "null"}).status_code == 403
    own = client.post("/run", json=TEXT, headers={"Origin": HERE})
    asked = client.options("/run", headers={"Origin": HERE, "Access-Control-Request-Method": "POST"})
    assert own.status_code == 200
    assert not [name for reply in (own, asked) for name in reply.headers if name.startswith("access-control")]


def test_a_form_of_another_site_could_not_be_taken_for_json(client):
    reply = client.post("/run", content=json.dumps(TEXT), headers={"Content-Type": "text/plain"})
    assert reply.status_code == 415 and "application/json" in reply.json()["error"]


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_large_is_refused(client, declared):
    body = b" " * (BODY_BYTES + 1)
    content = body if declared else (body[i : i + 65536] for i in range(0, len(body), 65536))
    reply = client.post("/run", content=content, headers={"Content-Type": "application/json"})
    assert reply.status_code == 413 and "at most" in reply.json()["error"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "request"),
        ('{"text": 3}', "text"),
        ('{"text": "x", "colour": 1}', "colour"),
        ('{"text": "x", "inside": "out"}', "inside"),
        ('{"text": ""}', "the text is empty"),
        ('{"text": "x", "circuit": "none"}', "there are: closing"),
        (json.dumps({"text": "x" * (TEXT_LENGTH + 1)}), "text"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_plain_words(client, body, said):
    reply = client.post("/run", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400 and said in reply.json()["error"] and "Traceback" not in reply.text


def test_an_unknown_circuit_or_page_is_not_served(client):
    assert client.get("/circuit/none").status_code == 400
    assert client.get("/secrets").status_code == 404
    assert client.get("/run").status_code == 405


def test_the_page_may_load_nothing_from_elsewhere(client):
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http://" not in page.text.replace("http://www.w3.org/", "") and "https://" not in page.text
