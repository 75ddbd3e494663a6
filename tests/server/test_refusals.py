"""A wrong request is the caller's fault: 4xx, as JSON, in words that name the place and the remedy."""

import json
import re

import pytest
import requests

GOOD = {"city": "Ulm", "age": 30}
CITY = {"name": "city", "shape": [2], "datatype": "BYTES", "data": ["Ulm", "Köln"]}
AGE = {"name": "age", "shape": [2], "datatype": "INT64", "data": [30, 40]}


def refused(response: requests.Response, status: int, message: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    assert re.search(message, response.json()["error"]), response.json()["error"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"age": 30}, r"instance 1, column 'city': is missing, and the contract requires it; give a value"),
        ({"city": None, "age": 30}, r"instance 1, column 'city': is missing"),
        ({"city": "Ulm", "age": "thirty"}, r"instance 1, column 'age': 'thirty' is not a number"),
        ({"city": "Ulm", "age": 30.5}, r"column 'age': 30.5 is not a 64-bit whole number"),
        ({"city": "Ulm", "age": 10**30}, r"column 'age': 10+ is not a 64-bit whole number"),
        ({"city": "Ulm", "age": True}, r"column 'age': True is not a number"),
        ({"city": ["Ulm"], "age": 30}, r"column 'city': \['Ulm'\] is not a text"),
        ({**GOOD, "income": {"a": 1}}, r"column 'income': .* is not a number"),
        ({**GOOD, "member": "maybe"}, r"column 'member': 'maybe' is not a truth value"),
        ({**GOOD, "joined": "31.12.2024"}, r"column 'joined': '31.12.2024' is not an ISO date"),
        ({**GOOD, "seen": 1700000000}, r"column 'seen': 1700000000 is not a date and time"),
        ({"town": "Ulm"}, r"instance 1: holds none of the model's columns"),
        (["Ulm", 30], r"instance 1: 2 values for 6 columns; give one value each for city, age"),
        ("Ulm", r"instance 1: 'Ulm' is no row"),
    ],
)
def test_a_row_that_breaks_the_contract(binary, row, message):
    refused(binary.v1([GOOD, row]), 400, message)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", r"request body: not valid JSON"),
        (b"{", r"not valid JSON"),
        (b"[" * 100_000, r"not valid JSON: nested too deeply"),
        (b"\xff\xfe", r"not valid JSON"),
        (b"[1]", r"a JSON array, not an object"),
        (b'{"instances": [{"city": "Ulm", "age": NaN}]}', r"NaN is not a JSON value, write null"),
        (b'{"instances": [{"city": "\\ud800", "age": 1}]}', r"not valid JSON: .*surrogates not allowed"),
        (b'{"inputs": []}', r"no array 'instances'; send \{\"instances\""),
        (b'{"instances": []}', r"'instances' is empty; give at least one row"),
    ],
)
def test_a_v1_body_that_is_no_request(binary, body, message):
    refused(requests.post(f"{binary.url}/v1/models/people:predict", data=body, timeout=10), 400, message)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], r"no array 'inputs' with a tensor"),
        (["city"], r"input 0: no tensor with a name"),
        ([CITY, {**AGE, "name": "agee"}], r"input 'agee': the model has no such input; did you mean 'age'\?"),
        ([CITY, {**AGE, "shape": [3]}], r"input 'age': shape is \[3\], but there are 2 values"),
        ([CITY, {**AGE, "shape": [1, 2]}], r"input 'age': shape is \[1, 2\], and a column has one value per row"),
        ([CITY, {**AGE, "shape": "2"}], r"input 'age': shape is '2'"),
        ([CITY, {**AGE, "shape": [1], "data": [30]}], r"input 'age': 1 rows, but input 'city' has 2"),
        (
            [CITY, {**AGE, "datatype": "BYTES", "data": ["30", "40"]}],
            r"input 'age': datatype is 'BYTES', and the column is integer; send it as INT64",
        ),
        ([CITY, {**AGE, "data": ["30", "40"]}], r"input 'age': value '30' of row 0 is no INT64"),
        ([CITY, {**AGE, "data": [30, 40.5]}], r"input 'age': value 40.5 of row 1 is no INT64"),
        ([CITY, {**AGE, "data": [30, None]}], r"row 1, column 'age': is missing, and the contract requires it"),
        ([CITY], r"row 0, column 'age': is missing, and the contract requires it"),
        ([CITY, CITY, AGE], r"input 'city': given twice"),
        ([CITY, {**AGE, "data": 30}], r"input 'age': no array 'data'"),
        ([CITY, {**AGE, "parameters": {"binary_data_size": 16}}], r"the binary data extension is not served"),
        ([{**CITY, "shape": [0], "data": []}], r"no row; give at least one row"),
    ],
)
def test_a_v2_request_with_a_wrong_tensor(binary, inputs, message):
    refused(binary.v2(inputs=inputs), 400, message)


def test_a_v2_output_that_does_not_exist(binary):
    refused(binary.v2(inputs=[CITY, AGE], outputs=[{"name": "probabilty"}]), 400, r"no such output; did you mean 'probability'\?")


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("POST", "/v1/models/other:predict", 404, r"/v1/models/other:predict: no model 'other' here; this server has 'people'"),
        ("POST", "/v2/models/other/infer", 404, r"no model 'other' here"),
        ("GET", "/v2/models/other", 404, r"no model 'other' here"),
        ("GET", "/v2/models/other/ready", 404, r"no model 'other' here"),
        ("GET", "/v1/models/other", 404, r"no model 'other' here"),
        ("GET", "/v2/models/people/versions/99/ready", 404, r"no version '99' of 'people' here"),
        ("GET", "/v3", 404, r"/v3: no such path; see /"),
        ("GET", "/v1/models/people:predict", 405, r"GET is not served here"),
        ("DELETE", "/v2/models/people", 405, r"DELETE is not served here"),
    ],
)
def test_a_path_that_is_not_served(binary, method, path, status, message):
    refused(requests.request(method, binary.url + path, timeout=10), status, message)


def test_a_body_over_the_limit_is_refused_and_the_next_request_is_answered(binary):
    session = requests.Session()
    url = f"{binary.url}/v1/models/people:predict"
    refused(session.post(url, data=b" " * 3_000_000, timeout=30), 413, r"request body: larger than 1 MiB")
    in_chunks = (b" " * 100_000 for _ in range(20))
    refused(session.post(url, data=in_chunks, timeout=30), 413, r"larger than 1 MiB")
    assert session.post(url, json={"instances": [GOOD]}, timeout=10).status_code == 200


def test_a_packed_body_is_refused(binary):
    response = requests.post(f"{binary.url}/v1/models/people:predict", data=b"x", headers={"content-encoding": "gzip"}, timeout=10)
    refused(response, 415, r"content-encoding is 'gzip'; send the body uncompressed")


def test_a_client_that_leaves_in_the_middle_does_no_harm(binary):
    import socket

    host, port = binary.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/models/people:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + json.dumps({"instances": []}).encode()
        )
    assert binary.v1([GOOD]).status_code == 200
