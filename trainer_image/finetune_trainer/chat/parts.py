"""Whether a chat template gets a message's content as text or as a list of parts.

vLLM 0.32 looks at the template: where it loops over the content of a message, content is given as a list of
parts (`renderers/hf.py`, `_detect_content_format`), also where a request has text only. Some templates write
the two differently: Gemma 4's adds a space to a system message of parts. A contract test compares the answers
for every template at hand.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import nodes


def takes_parts(tree: nodes.Template) -> bool:
    """Whether the engine hands content to this template as parts; False where vLLM cannot follow it."""
    try:
        messages = {_plain_name(loop.target) for loop in _loops_over(tree, _conversations(tree))}
    except _NotFollowedError:
        return False
    in_macros: dict[int, set[str]] = {}
    for macro in tree.find_all(nodes.Macro):
        parameters = _content_parameters(tree, macro, messages)
        for loop in macro.find_all(nodes.For):  # macros may be nested
            in_macros[id(loop)] = in_macros.get(id(loop), set()) | parameters
    return any(
        _is_content(loop.iter, messages) or _name(loop.iter) in in_macros.get(id(loop), {"content"})
        for loop in tree.find_all(nodes.For)
    )


def in_parts(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as the engine hands it to such a template; the result of a tool stays text."""
    content = message.get("content")
    if message["role"] == "tool" or isinstance(content, list):
        return dict(message)
    parts = [] if content is None else [{"type": "text", "text": content}]
    return {**message, "content": parts}


class _NotFollowedError(Exception):
    """The messages are bound to something else than a plain name."""


def _conversations(tree: nodes.Template) -> set[str]:
    """`messages`, and the names that it, or a slice or filter of it, is assigned to."""
    found, unseen = {"messages"}, ["messages"]
    while unseen:
        name = unseen.pop()
        assigned = [a for a in tree.find_all(nodes.Assign) if _name(_unwrapped(a.node)) == name]
        new = {_plain_name(assign.target) for assign in assigned} - found
        found |= new
        unseen += new
    return found


def _loops_over(tree: nodes.Template, conversations: set[str]) -> Iterator[nodes.For]:
    return (loop for loop in tree.find_all(nodes.For) if _name(_unwrapped(loop.iter)) in conversations)


def _content_parameters(tree: nodes.Template, macro: nodes.Macro, messages: set[str]) -> set[str]:
    """The parameters of a macro that a message's content is passed to anywhere."""
    names = [parameter.name for parameter in macro.args]
    found: set[str] = set()
    for call in tree.find_all(nodes.Call):
        if _name(call.node) == macro.name:
            by_place = dict(zip(names, call.args, strict=False))
            by_name = {keyword.key: keyword.value for keyword in call.kwargs if keyword.key in names}
            passed = [*by_place.items(), *by_name.items()]
            found |= {name for name, value in passed if _is_content(value, messages)}
    return found


def _is_content(node: nodes.Node | None, messages: set[str]) -> bool:
    """`message.content` or `message["content"]`, with filters, tests and slices around it."""
    node = _unwrapped(node)
    if isinstance(node, nodes.Getattr):
        return node.attr == "content" and _name(node.node) in messages
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        return node.arg.value == "content" and _name(node.node) in messages
    return False


def _unwrapped(node: nodes.Node | None) -> nodes.Node | None:
    if isinstance(node, nodes.Filter | nodes.Test):
        return _unwrapped(node.node)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        return _unwrapped(node.node)
    return node


def _name(node: nodes.Node | None) -> str | None:
    return node.name if isinstance(node, nodes.Name) else None


def _plain_name(target: nodes.Node) -> str:
    if not isinstance(target, nodes.Name):
        raise _NotFollowedError
    return target.name
