"""What schemathesis cannot read in the OpenAPI document.

Names that are this server's (its model, its collection), so that requests get beyond the 404, and what
JSON Schema has no words for, so that a request that the document allows is one that the server takes:
that the last message is the user's, that no id comes twice, that a number is no larger than another
field's or than the model's vocabulary and neither nought nor endless as an f32, that a text is a grammar and an object
a JSON Schema.

Only what is of the right type is changed: what was made wrong stays wrong.
"""

import schemathesis

VOCABULARY = 2048
ROLES = {"system", "developer", "user", "assistant"}


@schemathesis.hook
def before_call(context, case, kwargs):
    if isinstance(case.body, dict):
        body = dict(case.body)
        of_server(body)
        of_request(body)
        if body != case.body:
            case.body = body
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
    match body.get("input"):
        case [] | [*_, {"type": "file_search_call"}] as items:
            body["input"] = [*items, {"role": "user", "content": "Hello!"}]
    match body.get("documents"):
        case [_, *_] as documents:
            body["documents"] = list(without_twins(documents))
    match body:
        case {"min_tokens": int(fewest), "max_tokens": int(most)} if fewest > most:
            body["min_tokens"] = most
        case {"min_tokens": int(fewest), "max_completion_tokens": int(most)} if fewest > most:
            body["min_tokens"] = most
    match body.get("repetition_penalty"):
        case float(penalty) if 0 < penalty < 1e-37 or penalty > 1e37:
            body["repetition_penalty"] = 1
    match body.get("stop_token_ids"):
        case [*ids] if all(type(id) is int and id >= 0 for id in ids):
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


def without_twins(documents):
    seen = set()
    for document in documents:
        id = document.get("id") if isinstance(document, dict) else None
        if not isinstance(id, str) or id not in seen:
            yield document
        seen.add(id if isinstance(id, str) else None)
