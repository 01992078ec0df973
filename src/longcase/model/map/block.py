"""The block tree: a stage as its source has it, in steps, branches, loops and parallel strands.

Pure data, kept for drawing; `flow` derives from it which step may follow which. A `Step` names a
node of the map; everything else only says in which order steps come.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

from longcase.record import record

JumpKind = Literal["break", "continue", "return", "raise"]


@record
class Step:
    """One node: a wait, a decision, a change."""

    node: str


@record
class Seq:
    """One after the other; an empty one is nothing at all."""

    items: tuple[Block, ...] = ()


@record
class Arm:
    """One way of a branch, or one handler of a try; `catches` are the kinds of node whose failure it takes."""

    label: str
    block: Block
    catches: tuple[str, ...] = ()


@record
class Alt:
    """One of several ways. `title` is the question; `by` the node whose answer chooses, or ""."""

    title: str
    arms: tuple[Arm, ...]
    by: str = ""


@record
class Loop:
    """Any number of rounds; `endless` ones end by a jump or an exit only. `rest` is the else part."""

    title: str
    body: Block
    endless: bool = False
    rest: Block = Seq()


@record
class Par:
    """Strands side by side, joined at the end; with `each`, one strand per item of a collection."""

    branches: tuple[Block, ...]
    each: bool = False


@record
class Spawn:
    """A strand that runs beside what follows (`create_task`), joined by the group or an await."""

    block: Block


@record
class Group:
    """A TaskGroup: the strands spawned inside are joined at its end."""

    body: Block


@record
class Guard:
    """A try: from every step of `body` the `handlers` may follow; `rest` is the else part."""

    body: Block
    handlers: tuple[Arm, ...] = ()
    rest: Block = Seq()
    final: Block = Seq()


@record
class Limit:
    """A body under `asyncio.timeout` and its kin; `node` is the timer's place."""

    node: str
    body: Block


@record
class Edit:
    """`with case.change()`: the change is recorded when the body is left, if there is one."""

    node: str
    body: Block


@record
class Inline:
    """A part of the workflow, read in place; `name` is what it adds to the path, label included."""

    name: str
    body: Block


@record
class Exit:
    """The stage is left; `node` is the exit's place."""

    node: str


@record
class Jump:
    """`break`, `continue`, the `return` of a part, or an exception raised by the stage itself."""

    kind: JumpKind


Block: TypeAlias = Step | Seq | Alt | Loop | Par | Spawn | Group | Guard | Limit | Edit | Inline | Exit | Jump
NOTHING = Seq()


def seq(*blocks: Block) -> Block:
    """Return the blocks one after the other, without empty and nested sequences."""
    flat: list[Block] = []
    for block in blocks:
        flat.extend(block.items if isinstance(block, Seq) else (block,))
    return flat[0] if len(flat) == 1 else Seq(tuple(flat))


def children(block: Block) -> tuple[Block, ...]:
    """Return the blocks directly inside, in the order of the source."""
    match block:
        case Seq(items):
            return items
        case Alt(_, arms):
            return tuple(arm.block for arm in arms)
        case Loop(_, body, _, rest):
            return (body, rest)
        case Par(branches):
            return branches
        case Spawn(inner) | Group(inner) | Limit(_, inner) | Edit(_, inner) | Inline(_, inner):
            return (inner,)
        case Guard(body, handlers, rest, final):
            return (body, *(arm.block for arm in handlers), rest, final)
        case Step() | Exit() | Jump():
            return ()


def walk(block: Block) -> Iterator[Block]:
    """Yield the block and everything inside it, outermost first."""
    yield block
    for child in children(block):
        yield from walk(child)


def nodes_in(block: Block) -> set[str]:
    """Return the ids of all nodes inside, exits included."""
    found = set()
    for inner in walk(block):
        match inner:
            case Step(node) | Exit(node) | Limit(node) | Edit(node):
                found.add(node)
            case _:
                pass
    return found


def block_to_json(block: Block) -> Any:
    """Return the block as plain JSON data: a list whose first item is the kind of the block."""
    match block:
        case Step(node):
            return ["step", node]
        case Seq(items):
            return ["seq", *map(block_to_json, items)]
        case Alt(title, arms, by):
            return ["alt", title, by, *map(_arm_to_json, arms)]
        case Loop(title, body, endless, rest):
            return ["loop", title, endless, block_to_json(body), block_to_json(rest)]
        case Par(branches, each):
            return ["par", each, *map(block_to_json, branches)]
        case Spawn(inner):
            return ["spawn", block_to_json(inner)]
        case Group(inner):
            return ["group", block_to_json(inner)]
        case Guard(body, handlers, rest, final):
            inside = [block_to_json(part) for part in (body, rest, final)]
            return ["try", *inside, *map(_arm_to_json, handlers)]
        case Limit(node, body):
            return ["limit", node, block_to_json(body)]
        case Edit(node, body):
            return ["edit", node, block_to_json(body)]
        case Inline(name, body):
            return ["part", name, block_to_json(body)]
        case Exit(node):
            return ["exit", node]
        case Jump(kind):
            return [kind]


def block_from_json(data: Any) -> Block:
    """Return the block that `block_to_json` wrote."""
    kind, *rest = data
    match kind:
        case "step":
            return Step(rest[0])
        case "seq":
            return Seq(tuple(map(block_from_json, rest)))
        case "alt":
            return Alt(rest[0], tuple(map(_arm_from_json, rest[2:])), rest[1])
        case "loop":
            return Loop(rest[0], block_from_json(rest[2]), rest[1], block_from_json(rest[3]))
        case "par":
            return Par(tuple(map(block_from_json, rest[1:])), rest[0])
        case "spawn":
            return Spawn(block_from_json(rest[0]))
        case "group":
            return Group(block_from_json(rest[0]))
        case "try":
            body, orelse, final = map(block_from_json, rest[:3])
            return Guard(body, tuple(map(_arm_from_json, rest[3:])), orelse, final)
        case "limit":
            return Limit(rest[0], block_from_json(rest[1]))
        case "edit":
            return Edit(rest[0], block_from_json(rest[1]))
        case "part":
            return Inline(rest[0], block_from_json(rest[1]))
        case "exit":
            return Exit(rest[0])
        case _:
            return Jump(kind)


def _arm_to_json(arm: Arm) -> Any:
    return [arm.label, list(arm.catches), block_to_json(arm.block)]


def _arm_from_json(data: Any) -> Arm:
    label, catches, block = data
    return Arm(label, block_from_json(block), tuple(catches))
