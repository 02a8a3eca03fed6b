"""Tool calls and tool definitions as people write them, in one form: OpenAI's, with the arguments
as an object and not as JSON text.
"""

import json
from collections.abc import Iterator
from typing import Any


def normal_call(call: Any) -> Any:
    """`{id?, type: function, function: {name, arguments}}` of a call that may be flat (`{name,
    arguments}`) or have its arguments as JSON text. What is of no such shape is left for the
    record's own check to name.
    """
    if not isinstance(call, dict):
        return call
    if "name" in call and "function" not in call:
        inner = {key: call[key] for key in ("name", "arguments", "parameters") if key in call}
        call = {**{key: call[key] for key in ("id", "type") if key in call}, "function": inner}
    function = call.get("function")
    if isinstance(function, dict):
        given = function.get("arguments", function.get("parameters"))
        call = {
            **call,
            "function": {
                **{
                    key: function[key] for key in function if key not in ("arguments", "parameters")
                },
                "arguments": {} if given is None or given == "" else parsed(given),
            },
        }
    return {key: value for key, value in call.items() if value is not None and key != "index"}


def normal_tools(tools: Any) -> Any:
    """A list of `{type: function, function: {...}}`, from JSON text or a list of which some are
    flat; None where there is none.
    """
    tools = parsed(tools) if isinstance(tools, str) and tools.strip() else tools
    if not tools:
        return None
    if not isinstance(tools, list):
        return tools
    return [
        {"type": "function", "function": tool}
        if isinstance(tool, dict) and "name" in tool
        else tool
        for tool in map(parsed, tools)
    ]


def parsed(value: Any) -> Any:
    """What a JSON text holds; anything else, and text that is not JSON, as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (json.JSONDecodeError, RecursionError):
        return value


def encodable(value: Any) -> Any:
    """The value, checked to be JSON that any tokenizer takes: no NaN, no half a character."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a character") from None
    except (TypeError, ValueError, RecursionError):
        raise ValueError("is not plain JSON (NaN, or an object of another kind)") from None
    return value


def strings_in(value: Any) -> Iterator[str]:
    """Every string in nested lists and objects, keys left out, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inside in value.values() if isinstance(value, dict) else value:
            yield from strings_in(inside)


def with_strings(value: Any, new: Iterator[str]) -> Any:
    """The same value with the `new` strings in the places of `strings_in`."""
    if isinstance(value, str):
        return next(new)
    if isinstance(value, dict):
        return {key: with_strings(inside, new) for key, inside in value.items()}
    return [with_strings(inside, new) for inside in value] if isinstance(value, list) else value
