"""What schemathesis cannot read in the OpenAPI document.

Names that are this server's (its model, its collection), so that requests get beyond the 404, and what
JSON Schema has no words for, so that a request that the document allows is one that the server takes:
that the last message is the user's, that no id comes twice, that a number is no larger than another
field's (or than what that is where it is left out), than the model's vocabulary or its context, and neither nought
nor endless as an f32, that a text is a grammar and an object a JSON Schema, and what white space is:
the server goes by Unicode, patterns go by their dialect.

Only what is of the right type is changed: what was made wrong stays wrong.
"""

import schemathesis

VOCABULARY = 2048
CONTEXT = 1024
# Of completions whose request says nothing of `max_tokens`.
DEFAULT_MAX_TOKENS = 16
ROLES = {"system", "developer", "user", "assistant"}


@schemathesis.hook
def before_call(context, case, kwargs):
    if isinstance(case.body, dict):
        body = dict(case.body)
        of_server(body)
        of_request(body)
        if body != case.body:
            case.body = body
    # A key of another request is refused, as it should be.
    if case.headers and "idempotency-key" in case.headers:
        case.headers = {name: value for name, value in case.headers.items() if name.lower() != "idempotency-key"}
    if isinstance(case.query, dict) and isinstance(case.query.get("after"), str):
        case.query = {name: value for name, value in case.query.items() if name != "after"}


def of_server(body):
    if isinstance(body.get("model"), str):
        body["model"] = "onegen"
    for name in ["after", "conversation", "previous_response_id"]:
        if isinstance(body.get(name), str):
            del body[name]
    if isinstance(body.get("collection"), str):
        body["collection"] = "default"
    retrieval = body.get("retrieval")
    if isinstance(retrieval, dict) and isinstance(retrieval.get("collection"), str):
        body["retrieval"] = {**retrieval, "collection": "default"}
    tools = body.get("tools")
    if isinstance(tools, list):
        body["tools"] = [in_collection(tool) for tool in tools]


def in_collection(tool):
    match tool:
        case {"vector_store_ids": [str()]}:
            return {**tool, "vector_store_ids": ["default"]}
        case _:
            return tool


def of_request(body):
    for name in ["messages", "input"]:
        match body.get(name):
            case [*before, {"role": str(role)} as last] if role in ROLES:
                body[name] = [*before, {**last, "role": "user"}]
    # There are no messages to refer to.
    if isinstance(body.get("input"), list):
        body["input"] = [item for item in body["input"] if not is_reference(item)]
    for name in ["max_tokens", "max_completion_tokens", "max_output_tokens"]:
        if is_whole(body.get(name)) and body[name] > CONTEXT:
            body[name] = CONTEXT
    match body.get("input"):
        case [] | [*_, {"type": "file_search_call"}] as items:
            body["input"] = [*items, {"role": "user", "content": "Hello!"}]
    match body.get("documents"):
        case [_, *_] as documents:
            body["documents"] = [with_text(document) for document in without_twins(documents)]
    body |= with_text(body)
    if is_whole(body.get("min_tokens")):
        most = next((body[name] for name in ["max_tokens", "max_completion_tokens"] if body.get(name) is not None), None)
        if most is None and "prompt" in body:
            most = DEFAULT_MAX_TOKENS
        if is_whole(most):
            body["min_tokens"] = min(body["min_tokens"], most)
    match body.get("repetition_penalty"):
        case float(penalty) if 0 < penalty < 1e-37 or penalty > 1e37:
            body["repetition_penalty"] = 1
    match body.get("stop_token_ids"):
        case [*ids] if all(is_whole(id) and id >= 0 for id in ids):
            body["stop_token_ids"] = [id % VOCABULARY for id in ids]
    match body.get("structured_outputs"):
        case {"grammar": str()}:
            body["structured_outputs"] = {"grammar": "start: /[a-z]+/"}
        case {"json": dict()}:
            body["structured_outputs"] = {"json": {"type": "object"}}
    match body.get("response_format"):
        case {"type": "json_schema", "json_schema": {"schema": dict()} as schema} as asked:
            schema = {**schema, "schema": {"type": "object"}}
            body["response_format"] = {**asked, "json_schema": schema}
    match body.get("text"):
        case {"format": {"type": "json_schema", "schema": dict()} as asked} as text:
            body["text"] = {**text, "format": {**asked, "schema": {"type": "object"}}}


def is_reference(item):
    return isinstance(item, dict) and isinstance(item.get("id"), str) and "role" not in item


def is_whole(value):
    """3.0 is an integer to JSON Schema, and to the server."""
    return type(value) is int or type(value) is float and value.is_integer()


def with_text(document):
    match document:
        case {"text": str(text)} if text and not text.strip():
            return {**document, "text": "Nothing else."}
        case _:
            return document


def without_twins(documents):
    seen = set()
    for document in documents:
        id = document.get("id") if isinstance(document, dict) else None
        if not isinstance(id, str) or id not in seen:
            yield document
        seen.add(id if isinstance(id, str) else None)
