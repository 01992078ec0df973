"""The map: what a workflow can do, read from its code without running it.

    source of the stages ──scope──▶ names resolved ──readers──▶ block trees + nodes
                                                        │
               stored, drawn, compared ◀── WorkflowMap ◀┘──flow──▶ which node may follow which

**Model.** A node is a place where something happens: an activity, a question, a wait, a decision,
a change, an exit. Its id is a path of names, `stage[/part...]/kind:name[:label]`
(`longcase.model.places`), the same at run time and after the code moved. A stage is a block tree
over nodes; edges, and the order in which events may come, are derived from it. The map is data
with a fingerprint: it is stored once, and each event carries the map it was made under.

**Guarantee.** Every `await`, `async for` and `async with` of a stage is claimed by exactly one
node, or is asyncio structure that bounds or joins what is claimed; every way out is an exit that
can be read. Where that is not so there is a finding with file and line, never a gap: a second,
plain walk over the syntax tree (`complete`) looks for what the readers missed.

**One place for several calls.** Kinds without a label share a node within one stage or part:
`timeout` (all of `asyncio.timeout`, `wait_for`, `wait(timeout=)`), `change`, `undo`, and
`require` of the same field. Every other second call needs `.labelled("...")` or `label=`.

**Order** is a superset of what can happen, per strand: no false alarm.

**Failure.** Reading raises nothing: what cannot be read is a finding, and the rest is still there.
"""

from longcase.model.map.compile import compile_map
from longcase.model.map.conform import OrderFinding, node_known, order_findings
from longcase.model.map.graph import Edge, Level, Node, StageMap, WorkflowMap
from longcase.model.map.source import forget_sources

__all__ = [
    "Edge",
    "Level",
    "Node",
    "OrderFinding",
    "StageMap",
    "WorkflowMap",
    "compile_map",
    "forget_sources",
    "node_known",
    "order_findings",
]
