"""A workflow whose only activity kills the worker that runs it."""

from __future__ import annotations

import os
import signal

from pydantic import BaseModel

from longcase import Case, Next, Retry, Team, Workflow, activity, days

desk = Team("desk")


class Cup(BaseModel):
    id: str


poison = Workflow("poison", object=Cup, key="id", owner=desk, expect=days(1))


@activity(owner=desk, retry=Retry(max_attempts=1))
async def drink(cup: str) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return cup


@poison.stage(expect=days(1))
async def drinking(case: Case[Cup]) -> Next:
    return poison.close("survived", result=await drink(case.key))
