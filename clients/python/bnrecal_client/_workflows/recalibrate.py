"""The whole of `recalibrate` as one plan: upload, create or resume, send, start, wait, fetch."""

from __future__ import annotations

import uuid
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from bnrecal_client._encoding.model_source import (
    AnyModel,
    ModelContent,
    export,
    is_module,
    read_model,
)
from bnrecal_client._runtime.effects import Effect, Plan
from bnrecal_client._workflows import operations as plans
from bnrecal_client._workflows.retry import Link
from bnrecal_client._workflows.upload_stream import Reader, send_all
from bnrecal_client.errors import BnrecalError, ConflictError, Interrupted, OptionError
from bnrecal_client.models import ModelDescription, Recalibration
from bnrecal_client.options import Options
from bnrecal_client.result import Result

__all__ = ["Run", "recalibrate"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What the caller of `recalibrate` asked for.

    Attributes:
        model: what is recalibrated; None only when resuming.
        options: method, estimator, layers.
        resume: id of a recalibration to go on with, None for a new one.
        unfolded: whether the unfolded model is wanted too.
        timeout_s: how long to wait for the server's work once all is sent, None: until it ends.
        poll_longest_s: longest pause between two questions for the state, in seconds.
        key: Idempotency-Key for creating.
    """

    model: AnyModel | None
    options: Options
    resume: str | None
    unfolded: bool
    timeout_s: float | None
    poll_longest_s: float
    key: str

    @classmethod
    def of(
        cls,
        model: AnyModel | None,
        options: Options,
        *,
        resume: str | None,
        unfolded: bool,
        timeout_s: float | None,
        poll_longest_s: float,
    ) -> Run:
        """Check what was asked for.

        Raises:
            OptionError: there is no model and nothing to resume.
        """
        if model is None and resume is None:
            raise OptionError("a model is needed; None goes only with resume=")
        return cls(
            model=model,
            options=options,
            resume=resume,
            unfolded=unfolded,
            timeout_s=timeout_s,
            poll_longest_s=poll_longest_s,
            key=uuid.uuid4().hex,
        )


def recalibrate(link: Link, reader: Reader, run: Run) -> Plan[Result]:
    """Do it all; whatever ends it early leaves a recalibration that can be resumed.

    Raises:
        Interrupted: Ctrl-C, once there is a recalibration.
        BnrecalError: as the parts of it.
    """
    now, inputs = yield from _begin(link, reader, run)
    return (yield from _resumable(now.id, _finish(link, reader, run, now, inputs)))


def _begin(link: Link, reader: Reader, run: Run) -> Plan[tuple[Recalibration, tuple[str, ...]]]:
    content = yield from _content(run, reader)
    if run.resume is None:
        assert content is not None
        model = yield from plans.upload(link, content)
        now = yield from plans.create(link, model.id, run.options, run.key)
    else:
        now = yield from plans.status(link, run.resume)
        _check_resumable(now, run, content)
        model = yield from plans.model(link, now.model)
    return now, _names(model)


def _finish(
    link: Link, reader: Reader, run: Run, now: Recalibration, inputs: tuple[str, ...]
) -> Plan[Result]:
    if now.state == "open":
        resume = run.resume is not None
        count = yield from send_all(link, now.id, reader, inputs, resume=resume)
        yield from plans.start(link, now.id, count)
    yield from plans.wait(link, now.id, timeout_s=run.timeout_s, poll_longest_s=run.poll_longest_s)
    return (yield from plans.fetch(link, now.id, unfolded=run.unfolded))


def _content(run: Run, reader: Reader) -> Plan[ModelContent | None]:
    """Find the model's bytes; a module is exported with the first batch as its example."""
    model = run.model
    if model is None:
        return None
    if is_module(model):
        example = yield from reader.peek()
        module = model
        model = yield from plans.compute(lambda: export(module, example))
    found = model
    return (yield from plans.compute(lambda: read_model(found)))


def _check_resumable(now: Recalibration, run: Run, content: ModelContent | None) -> None:
    """Refuse to mix two runs: the result would be neither's."""
    differ = run.options.differences(now.options)
    if content is not None and content.sha256 != now.model:
        differ.insert(0, "model")
    if differ:
        raise ConflictError(
            f"{now.id} was created with another {', '.join(differ)}: resume it with what it was "
            "created with, or begin a new recalibration",
            recalibration=now.id,
        )


def _names(model: ModelDescription) -> tuple[str, ...]:
    return tuple(info.name for info in model.inputs)


def _resumable(recalibration: str, plan: Plan[T]) -> Generator[Effect, Any, T]:
    """Say in whatever ends the plan early which recalibration it was about."""
    try:
        return (yield from plan)
    except BnrecalError as error:
        error.recalibration = error.recalibration or recalibration
        raise
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"interrupted; {recalibration} stays on the server: go on with "
            f'resume="{recalibration}", or cancel it',
            recalibration=recalibration,
        ) from error
    except BaseException as error:
        if not isinstance(error, GeneratorExit):
            error.add_note(f'{recalibration} stays on the server; resume="{recalibration}" goes on')
        raise
