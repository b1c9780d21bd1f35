"""A trace of a recording, by replaying it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from kstack.base.digests import digest
from kstack.base.errors import PolicyError, TraceError
from kstack.recording import RULES_VERSION, UNFINISHED, Recording, other_rules
from kstack.run.spec import replay_session
from kstack.trace.store import Meta, TraceWriter
from kstack.trace.tracer import Tracer

FAILED: Final = "policy-failed"
"""How a run has ended in which the policy did what no policy may."""


def make_trace(recording: Recording, folder: Path, registers: bool = False, anyway: bool = False) -> Meta:
    """Replay a recording and write its trace.

    Args:
        recording: what to replay.
        folder: that the trace becomes; an earlier trace there is replaced.
        registers: have them where blocks of code begin, too.
        anyway: replay it also on a machine of other rules; then it may come out otherwise.

    Raises:
        TraceError: it cannot be written, or the replay does not come out as it was recorded.
        KstackError: the recording cannot be replayed.
    """
    session = replay_session(recording, anyway)
    same = other_rules(recording.rules) is None
    begun = session.machine.time
    with TraceWriter(folder, session.symbols) as writer:
        tracer = Tracer(session, writer.part, registers)
        try:
            result = session.run()
            ended, reason = result.ended, result.reason
        except PolicyError as error:
            if recording.ended != UNFINISHED:
                raise
            result, ended, reason = None, FAILED, str(error)  # it was recorded up to there
        tracer.events.ended(ended, reason)
        tracer.hand_on()
        if result is not None and result.state_hash != recording.state_hash and not recording.is_cut and same:
            raise TraceError(f"the replay ends in state {result.state_hash}, recorded was {recording.state_hash}")
        return writer.finish(
            recording=digest(msgspec.json.encode(recording)),
            rules=RULES_VERSION,
            image=recording.image,
            policy=recording.policy,
            cpus=recording.cpus,
            ended=ended,
            time=session.machine.time,
            begun=begun,
            state_hash=session.machine.state_hash() if result is None else result.state_hash,
        )
